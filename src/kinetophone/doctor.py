"""``kinetophone doctor``: check that the machine and the models work before starting a long job."""

from __future__ import annotations

import gc
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from kinetophone.errors import RequestError, reason

State = Literal["ok", "warn", "FAIL"]
_GB = 1e9
_LARGE = 100_000_000  # parameters; memory of larger networks is reclaimed right after loading
_PROMPT = "a drumstick hits a metal bowl"
_FREE_HERE = 1 * _GB  # bytes, for clips and logs in the working directory
# Activations of one step: values per latent position of the video and per channel of the first U-Net level.
# From benchmarks/memory.py for the published pair: 7.3 GB in float32 with guidance.
_ACTIVATIONS = 174


@dataclass(frozen=True)
class Row:
    """The result of one check: its name, its state, what was found, and how to fix a problem."""

    check: str
    state: State
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Part:
    """A set of components that are loaded from one folder or Hub repository.

    Attributes:
        label: What it is, such as "audio base".
        name: Folder or Hub id.
        revision: Branch, tag or commit on the Hub.
        components: Sub-folders, "" for the top folder, each with the classes allowed there.
        inside: Folder of a bundle that holds the components, "" if they are at the top.
    """

    label: str
    name: str
    revision: str | None
    components: Mapping[str, Sequence[str]]
    inside: str = ""

    @property
    def folders(self) -> list[str]:
        """Paths of the components in the repository."""
        return [f"{self.inside}/{name}".strip("/") for name in self.components]

    def locate(self, allow_pickle: bool) -> Path:
        """The local folder with the components; downloads them from the Hub if necessary."""
        from kinetophone.hub.locate import locate

        return locate(self.name, self.folders, self.revision, allow_pickle).folder / self.inside


@dataclass(frozen=True, kw_only=True)
class Question:
    """What to check: a bundle, or a pair of bases (see ``Kinetophone.from_bases``)."""

    bundle: str = "hits"
    audio_base: str | None = None
    video_base: str | None = None
    motion_adapter: str | None = None
    device: str | None = None
    dtype: str = "float32"
    allow_pickle: bool = False
    fetch: bool = False

    @property
    def is_pair(self) -> bool:
        return self.audio_base is not None or self.video_base is not None


def examine(question: Question) -> Iterator[Row]:
    """Run all checks and yield each row as soon as it is known.

    Weights are downloaded only if ``question.fetch`` is true.
    """
    yield from _packages()
    yield from _machine(question)
    try:
        parts = list(_parts(question))
    except RequestError as error:
        yield Row("bundle", "FAIL", error.problems[0], "name a bundle's folder, or a Hub id")
        return
    if not all(Path(part.name).is_dir() for part in parts):
        yield _hub()
    missing, here = 0, []
    for part in parts:
        row, size = _place(part, question)
        yield row
        missing += size
        if row.state != "FAIL" and not size:
            here.append(part)
    yield from _disk(0 if question.fetch else missing)
    whole = len(here) == len(parts)
    folders = [part.locate(question.allow_pickle) for part in here]
    for part, folder in zip(here, folders, strict=True):
        for row in _components(part, folder, question):
            yield row
            whole &= row.state != "FAIL"
    if not whole:
        what = "the missing files are downloaded" if missing else "the problems above are fixed"
        yield Row(
            "one step", "warn", f"not tried until {what}", "run it again with --fetch" if missing else ""
        )
        return
    weights = sum(map(_weights_bytes, here, folders))
    yield from _steps(question, here, weights)


def _packages() -> Iterator[Row]:
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("kinetophone") or ()
    except metadata.PackageNotFoundError:
        yield Row("packages", "warn", "kinetophone can be imported but is not installed", "pip install -e .")
        return
    required = [Requirement(line) for line in lines]
    required = [r for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]
    bad = 0
    for requirement in required:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = ""
        if not version or not requirement.specifier.contains(version, prereleases=True):
            bad += 1
            found = f"{version or 'not installed'}, needs {requirement.specifier}"
            yield Row(requirement.name, "FAIL", found, f"pip install '{requirement}'")
    if not bad:
        named = ("torch", "diffusers", "transformers", "accelerate", "huggingface_hub", "av")
        versions = ", ".join(f"{name} {metadata.version(name)}" for name in named)
        python = ".".join(map(str, sys.version_info[:3]))
        yield Row("packages", "ok", f"all {len(required)} requirements met: Python {python}, {versions}")


def _machine(question: Question) -> Iterator[Row]:
    import torch

    from kinetophone.bundle.load import usable_device
    from kinetophone.precision import emulated

    try:
        device = usable_device(question.device)
    except RequestError as error:
        yield Row("device", "FAIL", error.problems[0], "omit --device, or install torch for your GPU")
        return
    free, total = _memory(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    found = f"{name}, {free / _GB:.1f} of {total / _GB:.1f} GB free"
    if told := emulated(question.dtype, device):
        yield Row("device", "warn", found, told)
    else:
        yield Row("device", "ok", f"{found}, {question.dtype}")


def _memory(device: Any) -> tuple[int, int]:
    """Free and total bytes of the GPU, or of main memory on a CPU."""
    import psutil
    import torch

    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return free, total
    memory = psutil.virtual_memory()
    return memory.available, memory.total


def _parts(question: Question) -> Iterator[Part]:
    """The parts to load; only configuration files are downloaded from the Hub."""
    from kinetophone.bases.animatediff import MOTION_ADAPTER
    from kinetophone.bases.audioldm import AudioLDM
    from kinetophone.bases.load import family_of
    from kinetophone.bases.video import VideoBase
    from kinetophone.hub.components import component_class
    from kinetophone.hub.locate import small_file

    audio: dict[str, Any] = {"name": question.audio_base}
    video: dict[str, Any] = {"name": question.video_base, "motion_adapter": question.motion_adapter}
    inside = {"audio": "", "video": ""}
    if not (question.audio_base and question.video_base):
        place, spec = _bundle(question.bundle)
        if not question.is_pair and spec.file is None:  # an adapter has been read already
            yield Part("coupling", place, None, {"coupling": ("Coupling",)})
        for name, named in (("audio", audio), ("video", video)):
            if named["name"] is None:
                inside[name] = "" if name in spec.bases else name
                named |= {"name": place, **spec.bases.get(name, {})}
    for modality, named in (("audio", audio), ("video", video)):
        name, revision, folder = named["name"], named.get("revision"), inside[modality]
        try:
            components = family_of(name, revision, modality, folder).COMPONENTS
        except (RequestError, ConnectionError):  # reported by the row of the base
            components = (AudioLDM if modality == "audio" else VideoBase).COMPONENTS
        yield Part(f"{modality} base", name, revision, components, folder)
    adapter = video.get("motion_adapter")
    if adapter is None:
        try:
            unet = small_file(
                video["name"], f"{inside['video']}/unet/config.json".strip("/"), video.get("revision")
            )
        except (RequestError, ConnectionError):  # reported by the row of the base
            unet = None
        if unet is not None and component_class(unet.parent) == "UNet2DConditionModel":
            adapter = MOTION_ADAPTER
    if adapter is not None:
        yield Part("motion adapter", adapter, video.get("adapter_revision"), {"": ("MotionAdapter",)})


def _bundle(name: str) -> tuple[str, Any]:
    """Folder or Hub id of a bundle, and its spec."""
    from kinetophone.bundle.spec import ADAPTER_NAME, BUNDLES, CONFIG_NAME, BundleSpec, available_bundles
    from kinetophone.hub.locate import small_file

    place = str(BUNDLES / name) if name in available_bundles() else name
    if place.endswith(".safetensors"):
        return place, BundleSpec.read(place)
    try:
        described = small_file(place, CONFIG_NAME) or small_file(place, ADAPTER_NAME)
    except ConnectionError as error:
        raise RequestError([f"the Hub cannot be reached for '{name}' ({reason(error)})"]) from None
    if described is None:
        raise RequestError([f"'{name}' has no {CONFIG_NAME}: it is not a bundle"])
    return place, BundleSpec.read(described.parent)


def _hub() -> Row:
    """The address of the Hub, and whether a user is logged in."""
    from huggingface_hub import constants, get_token

    login = "logged in" if get_token() else "not logged in (gated models need a login)"
    if constants.HF_HUB_OFFLINE:
        return Row(
            "Hub", "warn", f"{constants.ENDPOINT}, not used: HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE"
        )
    return Row("Hub", "ok", f"{constants.ENDPOINT}, {login}")


def _place(part: Part, question: Question) -> tuple[Row, int]:
    """Whether a part is available, and how many bytes must still be downloaded."""
    from kinetophone.hub.locate import pickled_parts, remote_files

    if Path(part.name).is_dir():
        if (pickled := pickled_parts(part.name, part.folders)) and not question.allow_pickle:
            return _refused(part, pickled), 0
        return Row(part.label, "ok", f"folder {part.name}"), 0
    try:
        files = remote_files(part.name, part.folders, part.revision)
    except ConnectionError as error:
        try:
            part.locate(question.allow_pickle)
        except RequestError:
            found = f"the Hub cannot be reached for '{part.name}' ({reason(error)})"
            return Row(part.label, "FAIL", found, "connect, unset HF_HUB_OFFLINE, or give a folder"), 0
        return Row(part.label, "ok", f"{part.name}, already downloaded; the Hub cannot be reached"), 0
    except RequestError as error:
        found, _, remedy = error.problems[0].partition(": ")
        return Row(part.label, "FAIL", found, remedy), 0
    pickled = [file.path for file in files if file.pickled]
    if pickled and not question.allow_pickle:
        return _refused(part, pickled), 0
    size = sum(file.size for file in files if not file.cached)
    if size and question.fetch:
        room = _room("disk, Hub cache", _cache(), size)
        if room.state == "FAIL":
            return Row(part.label, "FAIL", f"{size / _GB:.3g} GB to download: {room.found}", room.remedy), 0
        try:
            part.locate(question.allow_pickle)
        except (RequestError, OSError) as error:
            return Row(part.label, "FAIL", reason(error), "run it again: the download resumes"), 0
        size = 0
    if not size:
        return Row(part.label, "ok", f"{part.name}, downloaded"), 0
    large = max((file for file in files if not file.cached), key=lambda file: file.size)
    count = sum(not file.cached for file in files)
    found = f"{part.name}: {count} files to download, {size / _GB:.3g} GB, the largest {large.path}"
    return Row(part.label, "ok", found), size


def _refused(part: Part, pickled: list[str]) -> Row:
    from kinetophone.hub.weights import refusal

    found, _, remedy = refusal(f"'{part.name}'", pickled).partition(": ")
    return Row(part.label, "FAIL", found, remedy)


def _cache() -> Path:
    """The Hub's cache, or its nearest parent that exists."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return next(path for path in (Path(HF_HUB_CACHE), *Path(HF_HUB_CACHE).parents) if path.exists())


def _disk(missing: int) -> Iterator[Row]:
    yield _room("disk, Hub cache", _cache(), missing)
    yield _room("disk, here", Path.cwd(), _FREE_HERE)


def _room(label: str, place: Path, needed: float) -> Row:
    """Check that ``needed`` bytes are free on the disk of ``place``."""
    free = shutil.disk_usage(place).free
    found = f"{free / _GB:.1f} GB free in {place}"
    if free >= needed:
        return Row(label, "ok", found)
    remedy = f"{needed / _GB:.1f} GB are needed: free some space"
    if place == _cache():
        remedy += ", or set HF_HOME to a folder on a larger disk"
    return Row(label, "FAIL", found, remedy)


def _components(part: Part, folder: Path, question: Question) -> Iterator[Row]:
    """Load each component on its own and release it again."""
    import torch

    from kinetophone.coupling.coupling import Coupling
    from kinetophone.hub.components import load_components, load_network

    dtype = getattr(torch, question.dtype)
    for name, classes in part.components.items():
        label = f"{part.label}: {name}" if name else f"{part.label}: network"
        try:
            if part.label in ("coupling", "motion adapter"):
                from diffusers import MotionAdapter

                kind = Coupling if part.label == "coupling" else MotionAdapter
                loaded: Any = load_network(
                    folder / name, kind, dtype=dtype, allow_pickle=question.allow_pickle
                )
            else:
                loaded = load_components(
                    folder, {name: classes}, dtype=dtype, allow_pickle=question.allow_pickle
                )[name]
        except RequestError as error:
            yield Row(label, "FAIL", error.problems[0], _remedy(part))
            continue
        found, size = type(loaded).__name__, 0
        if isinstance(loaded, torch.nn.Module):
            size = sum(p.numel() for p in loaded.parameters())
            found += f", {size / 1e6:,.1f} M parameters"
        yield Row(label, "ok", found)
        del loaded
        if size > _LARGE:
            gc.collect()


def _remedy(part: Part) -> str:
    if Path(part.name).is_dir():
        return f"copy or download '{part.name}' again"
    return f"remove it from the Hub's cache and download it again: hf cache rm model/{part.name}"


def _steps(question: Question, parts: Sequence[Part], weights: int) -> Iterator[Row]:
    """Sample one step on the smallest latents, then a full-size clip with one step."""
    import torch

    from kinetophone.bundle.load import usable_device
    from kinetophone.pipeline import Kinetophone

    try:
        device = usable_device(question.device)
        free, _ = _memory(device)
        if weights > free:
            found = f"the weights take {weights / _GB:.1f} GB; {free / _GB:.1f} GB are free"
            yield Row(
                "one step", "FAIL", found, "use --dtype float16, a larger device, or generate --offload model"
            )
            return
        options: dict[str, Any] = {
            "device": str(device),
            "dtype": getattr(torch, question.dtype),
            "allow_pickle": question.allow_pickle,
        }
        if question.is_pair:
            names = {part.label: part.name for part in parts}
            pipe = Kinetophone.from_bases(
                audio=names["audio base"],
                video=names["video base"],
                motion_adapter=names.get("motion adapter"),
                **options,
            )
        else:
            pipe = Kinetophone.from_pretrained(question.bundle, **options)
    except RequestError as error:
        yield Row("one step", "FAIL", error.problems[0], "the parts load, but do not fit together")
        return
    try:
        start = time.monotonic()
        _smallest(pipe)
        yield Row("one step, smallest", "ok", f"{time.monotonic() - start:.1f} s, finite")
        yield _real(pipe, question, device)
    except (RuntimeError, FloatingPointError) as error:  # torch.OutOfMemoryError is a RuntimeError
        told, remedy = reason(error), "use --dtype float16 or bfloat16, or generate --offload model"
        yield Row("one step", "FAIL", told, remedy if "memory" in told else "use --dtype float32")


def _weights_bytes(part: Part, folder: Path) -> int:
    """Total size of a part's weight files in bytes."""
    from kinetophone.hub.weights import find_weights

    found = [(folder / name, find_weights(folder / name)) for name in part.components]
    return sum((place / file).stat().st_size for place, weights in found if weights for file in weights.names)


def _smallest(pipe: Any) -> None:
    """Sample one step on the smallest latents that the pair of bases accepts."""
    from kinetophone.av import AV
    from kinetophone.diffusion.clocks import power_path
    from kinetophone.diffusion.guidance import guided
    from kinetophone.diffusion.sample import initial_noise, sample_joint

    audio, video = pipe.bases.audio, pipe.bases.video
    frames = min(4, pipe.spec.frames)
    shapes: AV[Any] = AV(audio=audio.latent_shape(1), video=video.latent_shape(frames, video.multiple))
    text = pipe.bases.map(lambda base: base.conditioning([_PROMPT]))
    times = pipe.latent_times(shapes.map(lambda shape: shape[1]), pipe.spec.fps)
    sample_joint(
        guided(pipe.model, text, None, AV.both(1.0), times=times),
        initial_noise(shapes, [0], device=pipe.device),
        power_path(pipe.processes, 1, 1.0),
        pipe.processes,
    )


def _real(pipe: Any, question: Question, device: Any) -> Row:
    import torch

    spec = pipe.spec
    side = spec.size // pipe.bases.video.factor
    size = getattr(torch, question.dtype).itemsize
    width = pipe.model.denoisers.video.sites()[0].width
    needed = _ACTIVATIONS * spec.frames * side * side * width * size
    free, _ = _memory(device)
    label = f"one step, {float(spec.frames / spec.fps):g} s at {spec.size} px"
    if needed > free:
        found = f"not tried: it takes about {needed / _GB:.1f} GB; {free / _GB:.1f} GB are free"
        return Row(label, "warn", found, "use --dtype float16, or generate --offload model")
    moments = [time.monotonic()]
    pipe(_PROMPT, steps=1, progress=False, callback=lambda _: moments.append(time.monotonic()))
    moments.append(time.monotonic())
    step, decoding = moments[1] - moments[0], moments[2] - moments[1]
    steps = spec.defaults["steps"]
    whole = steps * step + decoding
    return Row(label, "ok", f"{step:.2g} s; a clip of {steps} steps takes about {whole:.0f} s")
