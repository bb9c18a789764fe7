"""Reading the components of a diffusers folder, and what every base does with an autoencoder or a text."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import ModelMixin, SchedulerMixin
from torch import Tensor, nn

from kinetophone.bases.weights import find_weights, read_folder, refusal
from kinetophone.errors import RequestError, reason
from kinetophone.joint.clocks import T_MAX
from kinetophone.sampling.ddim import NoiseSchedule
from kinetophone.text import read_json

# The classes that a component's configuration may name, and where they are from. Nothing else is looked up: a
# name in a file must not choose what is called.
CLASSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "unet": (
        "diffusers", ("UNet2DConditionModel", "UNetMotionModel", "UNet3DConditionModel", "MotionAdapter")
    ),
    "vae": ("diffusers", ("AutoencoderKL", "AutoencoderDC", "AutoencoderTiny")),
    "text_encoder": (
        "transformers", ("CLIPTextModel", "CLIPTextModelWithProjection", "ClapTextModelWithProjection")
    ),
    "vocoder": ("transformers", ("SpeechT5HifiGan",)),
}  # fmt: skip
# These run in float32 whatever the rest is in: decoders overflow in half precision, and cost little.
FLOAT32_ALWAYS = ("vae", "vocoder")
MOST_TOKENS = 512
CONFIGS = ("config.json", "scheduler_config.json")


def component_class(path: Path) -> str | None:
    """The class that a component's configuration names; None where there is no configuration."""
    config = next((path / name for name in CONFIGS if (path / name).is_file()), None)
    if config is None:
        return None
    settings = read_json(config)
    if not isinstance(settings, dict):
        raise RequestError([f"'{config}' is not a component's configuration: it holds no keys and values"])
    return settings.get("_class_name") or (settings.get("architectures") or [""])[0]


def load_component(
    folder: Path, name: str, *, dtype: torch.dtype = torch.float32, allow_pickle: bool = False
) -> Any:
    """Load ``folder/name``, a component of a base, as the class its configuration names, in ``dtype``.

    Raises:
        RequestError: if it is not there, is of a class its library does not have, or its weights are damaged,
            incomplete or pickled.
    """
    path = folder / name
    if name == "tokenizer":
        return _load_tokenizer(path)
    found = component_class(path)
    if found is None:
        raise RequestError([f"{path} holds no config.json: is {folder} a folder in diffusers layout?"])
    if name == "scheduler":
        return _load_scheduler(path, found)
    library, known = CLASSES[name]
    if found not in known:
        raise RequestError(
            [
                f"{path} names the class {found!r:.60}, which is none of those that a {name} may be: "
                f"{', '.join(known)}"
            ]
        )
    kind = getattr(__import__(library), found)
    return load_network(path, kind, dtype=dtype, allow_pickle=allow_pickle)


def _load_scheduler(path: Path, name: str) -> Any:
    """A scheduler whose noise schedule sampling can follow, whatever its own steps are.

    Raises:
        RequestError: if it is not one.
    """
    kind: Any = (
        getattr(diffusers, name, None) if isinstance(name, str) and name.endswith("Scheduler") else None
    )
    is_scheduler = isinstance(kind, type) and issubclass(kind, SchedulerMixin)
    if not is_scheduler:
        raise RequestError([f"{path} names the class {name!r:.60}, which is no scheduler of diffusers"])
    try:
        with quiet():
            scheduler = kind.from_pretrained(path)
            NoiseSchedule.from_scheduler(scheduler)
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise RequestError([f"{path} holds no scheduler that can be used: {reason(error)}"]) from None
    trained = scheduler.config.get("num_train_timesteps")
    if trained != T_MAX:
        raise RequestError([f"{path} has {trained} training timesteps; {T_MAX} are supported"])
    return scheduler


def _load_tokenizer(path: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        with quiet():
            return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise RequestError([f"{path} holds no tokenizer that can be loaded ({reason(error)})"]) from error


def load_network(path: Path, kind: Any, *, dtype: torch.dtype, allow_pickle: bool = False) -> Any:
    """Load a network of class ``kind`` from its folder, in evaluation mode.

    A folder with half-precision weights alone is loaded from those.

    Raises:
        RequestError: if the weights are damaged, incomplete or pickled.
    """
    problems = list(_weight_problems(path))
    weights = find_weights(path)
    if weights is not None and weights.pickled and not allow_pickle:
        problems.append(refusal(f"'{path}'", weights.names))
    if problems:
        raise RequestError(problems)
    assert weights is not None
    # Bundles are stored in half precision and run in another: nothing is guessed from the files.
    options: dict[str, Any] = {"torch_dtype" if issubclass(kind, ModelMixin) else "dtype": dtype}
    options["use_safetensors"] = not weights.pickled  # and both libraries read pickles as tensors only
    if weights.variant is not None:
        options["variant"] = weights.variant
    try:
        with quiet():
            network, info = kind.from_pretrained(path, output_loading_info=True, **options)
    except (
        OSError,
        ValueError,
        RuntimeError,
        EOFError,
        KeyError,
        TypeError,
        pickle.UnpicklingError,
    ) as error:
        if weights.pickled:
            read_folder(path, allow_pickle)  # says what is wrong with a pickle
        raise RequestError([f"{path} cannot be loaded as a {kind.__name__}: {reason(error)}"]) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise RequestError([f"the weights in {path} lack {len(missing)} tensors, first {missing[0]}"])
    # One number a tensor, which is NaN or infinite where any of its numbers is: cheap beside the reading.
    broken = [name for name, x in network.named_parameters() if not torch.isfinite(x.float().sum())]
    if broken:
        many = f"{len(broken)} tensors, first {broken[0]}"
        raise RequestError([f"the weights in {path} are not finite in {many}: they are damaged"])
    for name, buffer in network.named_buffers():
        if name.endswith("token_type_ids"):  # a constant, though files hold it: text here is of one type, 0
            buffer.zero_()
    return network.eval()


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings and bars of diffusers and transformers: what matters of them is checked here."""
    import diffusers
    import transformers

    libraries = (diffusers.utils.logging, transformers.utils.logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, bars) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()


def load_components(
    folder: Path | str,
    classes: Mapping[str, Sequence[str]],
    *,
    dtype: torch.dtype = torch.float32,
    allow_pickle: bool = False,
) -> dict[str, Any]:
    """Load the components of a base; networks are in evaluation mode.

    Args:
        folder: in diffusers layout.
        classes: the classes each component may have, by name; none for the tokenizer and the scheduler, whose
            own files say.
        dtype: of the networks; autoencoder and vocoder are always in float32.
        allow_pickle: whether the user agreed to pickled weights, see :mod:`kinetophone.bases.weights`.

    Raises:
        RequestError: if components are missing, of another class or damaged; lists all, before any is loaded.
    """
    root = Path(folder)
    problems = component_problems(root, classes, allow_pickle)
    if problems:
        raise RequestError(problems)
    return {
        name: load_component(
            root,
            name,
            dtype=torch.float32 if name in FLOAT32_ALWAYS else dtype,
            allow_pickle=allow_pickle,
        )
        for name in classes
    }


def component_problems(
    folder: Path, classes: Mapping[str, Sequence[str]], allow_pickle: bool = False
) -> list[str]:
    """What keeps the components of a base from being loaded, found without loading any; see above."""
    problems: list[str] = []
    pickled: list[str] = []
    for name, allowed in classes.items():
        problems += _problems(folder, name, allowed)
        weights = find_weights(folder / name)
        if weights is not None and weights.pickled and not allow_pickle:
            pickled += [f"{name}/{file}" for file in weights.names]
    return [*problems, refusal(f"'{folder}'", pickled)] if pickled else problems


def _problems(root: Path, name: str, allowed: Sequence[str]) -> Iterator[str]:
    path = root / name
    if name == "tokenizer":
        if not path.is_dir():
            yield f"{root} has no tokenizer: is it a folder in diffusers layout?"
        return
    found = component_class(path)
    if found is None:
        yield f"{path} holds no config.json: is {root} a folder in diffusers layout?"
    elif allowed and found not in allowed:
        yield f"{path} is a {found or 'model of no named class'}, but this base needs {' or '.join(allowed)}"
    elif name != "scheduler":
        yield from _weight_problems(path)


def _weight_problems(path: Path) -> Iterator[str]:
    from safetensors import SafetensorError, safe_open

    weights = find_weights(path)
    if weights is None:
        yield f"{path} has no weights (*.safetensors)"
    elif not weights.pickled:
        for name in weights.names:
            if name.endswith(".safetensors"):
                try:
                    with safe_open(path / name, framework="pt"):
                        pass
                except (SafetensorError, OSError) as error:
                    yield f"{path / name} is damaged ({error}): copy or download it again"


def cast(network: Any, dtype: torch.dtype) -> Any:
    """``network`` with its floating-point tensors in ``dtype``, without the warning that diffusers gives."""
    return nn.Module.to(network, dtype)


def save_component(component: Any, path: Path, dtype: torch.dtype) -> None:
    """Save ``component`` as ``dtype`` where it is a network; it keeps its own dtype and values itself."""
    if not isinstance(component, nn.Module) or next(component.parameters()).dtype == dtype:
        with quiet():
            component.save_pretrained(path)
        return
    own = next(component.parameters()).dtype
    exact = {name: tensor.clone() for name, tensor in component.state_dict().items()}
    with quiet():
        cast(component, dtype).save_pretrained(path)
        cast(component, own)
    component.load_state_dict(exact)


def encode_latents(vae: Any, x: Tensor) -> Tensor:
    """Scaled latents of ``x``: the posterior's mode where the autoencoder is variational."""
    out = vae.encode(x)
    z = out.latent_dist.mode() if hasattr(out, "latent_dist") else out.latent
    return z * vae.config.scaling_factor


def decode_latents(vae: Any, z: Tensor, batch: int = 64) -> Tensor:
    """Undo :func:`encode_latents`, ``batch`` items at a time, in float32."""
    return torch.cat([vae.decode(part.float() / vae.config.scaling_factor).sample for part in z.split(batch)])


def in_chunks(
    compute: Callable[[Tensor], Tensor], x: Tensor, at_once: int, beside: int, step: int = 1
) -> Tensor:
    """``compute(x)``, stretch by stretch along axis 1, time: what it needs does not grow with the length.

    A stretch is computed with what lies ``beside`` it; where two meet they fade into each other, and the
    outer half of what lay beside is not used. So a network that sees no further than that half gives what it
    gives of the whole, and one that sees more (norms over its whole input, attention) leaves no edge.

    Args:
        compute: makes (B, n // step · r, …) of (B, n, …), with a whole number r.
        x: (B, N, …).
        at_once: the longest stretch, at least 2 · ``beside``. If N is no more, ``x`` is computed as a whole.
        beside: on either side; like ``at_once`` a multiple of ``step``.
        step: positions of ``x`` that become r of the result.
    """
    total, count = x.shape[1] // step, -(-x.shape[1] // at_once)
    if count == 1:
        return compute(x)
    parts: Tensor | None = None
    borders = [total * k // count * step for k in range(count)] + [x.shape[1]]
    for start, end in pairwise(borders):
        first, last = max(0, start - beside), min(x.shape[1], end + beside)
        made = compute(x[:, first:last])
        rate = made.shape[1] // ((last - first) // step)
        if parts is None:
            parts = made.new_zeros(len(made), total * rate, *made.shape[2:])
        at = first + (torch.arange(made.shape[1], device=made.device) + 0.5) * (step / rate)
        weight = torch.ones_like(at)
        if first > 0:
            weight = weight.minimum((at - start) / beside + 0.5)
        if last < x.shape[1]:
            weight = weight.minimum((end - at) / beside + 0.5)
        weight = weight.clamp(min=0).view(-1, *[1] * (made.dim() - 2))
        parts[:, first // step * rate :][:, : made.shape[1]] += weight * made
    assert parts is not None
    return parts


def execution_device(network: nn.Module) -> torch.device:
    """Where ``network`` computes: not where its weights are while they are offloaded."""
    for module in network.modules():
        device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return next(network.parameters()).device


def tokenize(tokenizer: Any, texts: list[str], device: torch.device) -> dict[str, Tensor]:
    """Token ids and mask, padded to the tokenizer's full length."""
    tokens = tokenizer(
        texts,
        padding="max_length",
        truncation=True,
        # Some tokenizers name no limit, which reads as 1e30.
        max_length=min(tokenizer.model_max_length, MOST_TOKENS),
        return_tensors="pt",
    )
    return {key: tokens[key].to(device) for key in ("input_ids", "attention_mask")}
