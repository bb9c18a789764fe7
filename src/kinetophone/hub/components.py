"""Reading the components of a diffusers folder, and what every base does with an autoencoder or a text."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import ModelMixin, SchedulerMixin
from diffusers.utils import DummyObject
from torch import nn

from kinetophone.diffusion.process import Discrete
from kinetophone.errors import RequestError, reason
from kinetophone.hub.weights import find_weights, read_folder, refusal
from kinetophone.text import read_json

# The classes that a component's configuration may name where a base does not say. Nothing else is looked up:
# a name in a file must not choose what is called.
CLASSES: dict[str, tuple[str, ...]] = {
    "unet": ("UNet2DConditionModel", "UNetMotionModel", "UNet3DConditionModel", "MotionAdapter"),
    "vae": ("AutoencoderKL", "AutoencoderDC", "AutoencoderTiny"),
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection", "ClapTextModelWithProjection"),
    "vocoder": ("SpeechT5HifiGan",),
}
# Among the classes that a scheduler may have: any that describes a DDPM process.
DDPM = "a DDPM schedule"
# These run in float32 whatever the rest is in: decoders overflow in half precision, and cost little.
FLOAT32_ALWAYS = ("vae", "vocoder")
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
    folder: Path,
    name: str,
    allowed: Sequence[str] = (),
    *,
    dtype: torch.dtype = torch.float32,
    allow_pickle: bool = False,
) -> Any:
    """Load ``folder/name``, a component of a base, as the class its configuration names, in ``dtype``.

    Args:
        folder: of the base.
        name: of the component.
        allowed: the classes it may have; those in :data:`CLASSES` if none are given.
        dtype: of a network.
        allow_pickle: whether the user agreed to pickled weights.

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
        return _load_scheduler(path, found, DDPM in (allowed or (DDPM,)))
    known = tuple(allowed) or CLASSES[name]
    if found not in known:
        raise RequestError(
            [
                f"{path} names the class {found!r:.60}, which is none of those that a {name} may be: "
                f"{', '.join(known)}"
            ]
        )
    import transformers

    kind = getattr(diffusers if hasattr(diffusers, found) else transformers, found)
    return load_network(path, kind, dtype=dtype, allow_pickle=allow_pickle)


class StoredScheduler:
    """The configuration of a scheduler that diffusers cannot make here, for want of another package.

    Sampling needs no more of it.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def save_pretrained(self, folder: Path | str) -> None:
        """Write it as it was."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "scheduler_config.json").write_text(json.dumps(self.config, indent=2) + "\n")


def _load_scheduler(path: Path, name: str, ddpm: bool) -> Any:
    """A scheduler whose noise schedule sampling can follow, whatever its own steps are.

    Raises:
        RequestError: if it is not one.
    """
    kind: Any = (
        getattr(diffusers, name, None) if isinstance(name, str) and name.endswith("Scheduler") else None
    )
    if isinstance(kind, DummyObject):
        return StoredScheduler(read_json(path / "scheduler_config.json"))
    is_scheduler = isinstance(kind, type) and issubclass(kind, SchedulerMixin)
    if not is_scheduler:
        raise RequestError([f"{path} names the class {name!r:.60}, which is no scheduler of diffusers"])
    try:
        with quiet():
            scheduler = kind.from_pretrained(path)
            if ddpm:
                Discrete.from_scheduler(scheduler)
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise RequestError([f"{path} holds no scheduler that can be used: {reason(error)}"]) from None
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
        allow_pickle: whether the user agreed to pickled weights, see :mod:`kinetophone.hub.weights`.

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
            classes[name],
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
    elif allowed and name != "scheduler" and found not in allowed:
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
