"""Loading and saving the components of a folder in diffusers layout."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch
from diffusers import ModelMixin, SchedulerMixin
from diffusers.utils import DummyObject
from torch import nn

from kinetophone.diffusion.process import Discrete
from kinetophone.errors import RequestError, reason
from kinetophone.hub.weights import find_weights, read_folder, refusal
from kinetophone.text import read_json

# The classes that a component's configuration may name, unless its base restricts them further. No other name
# is looked up, so that a downloaded file cannot choose which code runs.
CLASSES: dict[str, tuple[str, ...]] = {
    "unet": ("UNet2DConditionModel", "UNetMotionModel", "UNet3DConditionModel", "MotionAdapter"),
    "vae": ("AutoencoderKL", "AutoencoderDC", "AutoencoderTiny"),
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection", "ClapTextModelWithProjection"),
    "vocoder": ("SpeechT5HifiGan",),
}
Network = TypeVar("Network", bound=type[nn.Module])
# Networks of this package that a configuration may name, by name; see :func:`own_class`.
_OWN: dict[str, type[nn.Module]] = {}
# In a list of allowed classes: any scheduler that describes a DDPM process.
DDPM = "a DDPM schedule"
# These always run in float32: they overflow in half precision, and float32 costs little here.
FLOAT32_ALWAYS = ("vae", "vocoder")
CONFIGS = ("config.json", "scheduler_config.json")


def component_class(path: Path) -> str | None:
    """The class named by a component's configuration; None if it has no configuration.

    Raises:
        RequestError: the configuration is not a JSON mapping.
    """
    config = next((path / name for name in CONFIGS if (path / name).is_file()), None)
    if config is None:
        return None
    settings = read_json(config)
    if not isinstance(settings, dict):
        raise RequestError([f"'{config}' is not a component's configuration: it is not a mapping"])
    return settings.get("_class_name") or (settings.get("architectures") or [""])[0]


def load_component(
    folder: Path,
    name: str,
    allowed: Sequence[str] = (),
    *,
    dtype: torch.dtype = torch.float32,
    allow_pickle: bool = False,
) -> Any:
    """Load the component ``folder/name`` of a base as the class named by its configuration.

    Args:
        folder: folder of the base.
        name: name of the component, such as "unet".
        allowed: the classes it may have; default: those in :data:`CLASSES`.
        dtype: dtype of a network.
        allow_pickle: whether the user agreed to pickled weights.

    Raises:
        RequestError: it is missing, has a class that is not allowed, or its weights are damaged, incomplete
            or pickled.
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
                f"{path} names the class {found!r:.60}, which is not allowed for a {name}; allowed: "
                f"{', '.join(known)}"
            ]
        )
    import transformers

    kind = _OWN.get(found) or getattr(diffusers if hasattr(diffusers, found) else transformers, found)
    return load_network(path, kind, dtype=dtype, allow_pickle=allow_pickle)


def own_class(network: Network) -> Network:
    """Register a class of this package, so that the configuration of a component may name it."""
    _OWN[network.__name__] = network
    return network


class StoredScheduler:
    """The configuration of a scheduler whose class needs a package that is not installed.

    Sampling needs only the configuration.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the configuration unchanged."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "scheduler_config.json").write_text(json.dumps(self.config, indent=2) + "\n")


def _load_scheduler(path: Path, name: str, ddpm: bool) -> Any:
    """Load a scheduler for its noise schedule; its own stepping is not used.

    Raises:
        RequestError: it is not a scheduler of diffusers, or its noise schedule is not supported.
    """
    kind: Any = (
        getattr(diffusers, name, None) if isinstance(name, str) and name.endswith("Scheduler") else None
    )
    if isinstance(kind, DummyObject):
        return StoredScheduler(read_json(path / "scheduler_config.json"))
    is_scheduler = isinstance(kind, type) and issubclass(kind, SchedulerMixin)
    if not is_scheduler:
        raise RequestError([f"{path} names the class {name!r:.60}, which is not a scheduler of diffusers"])
    try:
        with quiet():
            scheduler = kind.from_pretrained(path)
            if ddpm:
                Discrete.from_scheduler(scheduler)
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise RequestError([f"{path} has no usable scheduler: {reason(error)}"]) from None
    return scheduler


def _load_tokenizer(path: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        with quiet():
            return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise RequestError([f"{path} has no tokenizer that can be loaded ({reason(error)})"]) from error


def load_network(path: Path, kind: Any, *, dtype: torch.dtype, allow_pickle: bool = False) -> Any:
    """Load a network of class ``kind`` from its folder, in evaluation mode.

    Half-precision weights are used if the folder has no others.

    Raises:
        RequestError: the weights are damaged, incomplete, not finite, or pickled without consent.
    """
    problems = list(_weight_problems(path))
    weights = find_weights(path)
    if weights is not None and weights.pickled and not allow_pickle:
        problems.append(refusal(f"'{path}'", weights.names))
    if problems:
        raise RequestError(problems)
    assert weights is not None
    # The dtype is always given: bundles are stored in half precision, but may run in another dtype.
    options: dict[str, Any] = {"torch_dtype" if issubclass(kind, ModelMixin) else "dtype": dtype}
    options["use_safetensors"] = not weights.pickled  # both libraries read pickles as tensors only
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
            read_folder(path, allow_pickle)  # raises a more precise error for pickles
        raise RequestError([f"{path} cannot be loaded as a {kind.__name__}: {reason(error)}"]) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise RequestError([f"the weights in {path} lack {len(missing)} tensors, first {missing[0]}"])
    # The sum of a tensor is NaN or infinite if any element is; summing is cheap compared with loading.
    broken = [name for name, x in network.named_parameters() if not torch.isfinite(x.float().sum())]
    if broken:
        many = f"{len(broken)} tensors, first {broken[0]}"
        raise RequestError([f"the weights in {path} are not finite in {many}: they are damaged"])
    for name, buffer in network.named_buffers():
        if name.endswith("token_type_ids"):  # a constant although it is stored: all tokens have type 0
            buffer.zero_()
    return network.eval()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings and progress bars of diffusers and transformers; errors are checked in this module."""
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
        folder: a folder in diffusers layout.
        classes: allowed classes of each component, by name; empty for the tokenizer and the scheduler, which
            take any supported class.
        dtype: dtype of the networks; autoencoder and vocoder are always in float32.
        allow_pickle: whether the user agreed to pickled weights, see :mod:`kinetophone.hub.weights`.

    Returns:
        The components by name.

    Raises:
        RequestError: components are missing, of another class or damaged; lists all before any is loaded.
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
    """Problems that prevent loading the components of a base, found without loading any.

    The arguments are those of :func:`load_components`.
    """
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
    """Convert the floating-point tensors of ``network`` to ``dtype``, without the warning of diffusers."""
    return nn.Module.to(network, dtype)


def save_component(component: Any, path: Path, dtype: torch.dtype) -> None:
    """Save ``component``, a network as ``dtype``; the component in memory stays unchanged."""
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
