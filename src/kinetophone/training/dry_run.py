"""Dry run of a recipe: parameters, latents and memory, computed on the meta device without weights.

Only the configurations of the bases are read. A forward pass on the meta device counts the tensors that
autograd keeps for the backward pass, with fused attention as on a GPU. Temporary tensors, text models and the
driver are covered by a flat allowance of 1.5 GiB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kinetophone.av import AV, MODALITIES
from kinetophone.bases.animatediff import MOTION_ADAPTER, AnimateDiff
from kinetophone.bases.load import FAMILIES
from kinetophone.bases.protocol import Conditioning, Denoiser
from kinetophone.bases.stable_audio import StableAudio
from kinetophone.bases.wan import TOKENS, Wan
from kinetophone.bundle.load import usual_frames
from kinetophone.coupling.coupling import Coupling
from kinetophone.coupling.model import JointModel
from kinetophone.data.domains import DOMAINS, domain
from kinetophone.data.encoded import INDEX
from kinetophone.errors import UserError
from kinetophone.hub.components import StoredScheduler, cast, quiet
from kinetophone.hub.locate import pickled_parts
from kinetophone.hub.weights import refusal
from kinetophone.media.timing import ClipTime, as_fps
from kinetophone.reference.networks import MOTION_UNET, PUBLISHED
from kinetophone.text import read_json
from kinetophone.training.recipe import Recipe, frozen_dtype

# An image model and its adapter, whose common network has a configuration of its own in the package.
_PUBLISHED_VIDEO = ("SG161222/Realistic_Vision_V5.1_noVAE", MOTION_ADAPTER)
_GIB = 2**30
_REST = 3 * 2**29  # 1.5 GiB: text models, the driver's libraries, temporary tensors
_CARDS = {"24 GB": int(23.5 * _GIB), "80 GB": int(79.1 * _GIB)}  # what a driver shows of them
_TEXT = {"states": 130, "unet": 77}  # tokens of a text: Stable Audio's with the seconds, and CLIP's


@dataclass(frozen=True)
class Estimate:
    """Parameter counts, memory and amount of work of a training run.

    Attributes:
        trained: Number of trained parameters.
        frozen: Number of frozen parameters.
        state_bytes: Bytes for weights, gradients, moving average and optimiser state.
        activation_bytes: Bytes that each clip keeps for the backward pass. With gradient checkpointing, that
            includes the block that keeps most, while it is computed again.
        latents: Shape of a clip's latents in each modality.
        steps: Optimiser steps.
        batch_size: Clips per step.
        clips_per_pass: Clips per forward pass if one process trains alone.
    """

    trained: int
    frozen: int
    state_bytes: int
    activation_bytes: int
    latents: AV[tuple[int, ...]]
    steps: int
    batch_size: int
    clips_per_pass: int

    def device_bytes(self, processes: int = 1) -> int:
        """Bytes that each process needs on its device if ``processes`` share a batch."""
        clips = -(-self.clips_per_pass // processes)
        return self.state_bytes + clips * self.activation_bytes + _REST

    def problem(self, available: int, processes: int = 1) -> str | None:
        """Why training does not fit a device with ``available`` bytes and what to change; None if it fits."""
        needed = self.device_bytes(processes)
        if needed <= available:
            return None
        return (
            f"training needs about {needed / _GIB:.1f} GiB on the device, which has {available / _GIB:.1f}: "
            "set a larger 'loop.accumulate', 'loop.gradient_checkpointing: true', "
            "'loop.precision: bfloat16' or 'loop.optimizer: adamw8bit'"
        )

    def at_once(self, available: int) -> int:
        """Clips in a pass that fit a device with ``available`` bytes; at most a whole batch."""
        left = available - self.state_bytes - _REST
        return min(self.batch_size, max(0, left // self.activation_bytes))

    def lines(self) -> list[str]:
        """The estimate as lines for the terminal."""
        shapes: AV[str] = self.latents.map(lambda shape: " x ".join(map(str, shape)))
        stored = 2 * sum(math.prod(shape) for shape in (self.latents.audio, self.latents.video))
        fitting = "; ".join(
            f"{name}: {f'{count} at once' if (count := self.at_once(size)) else 'too small'}"
            for name, size in _CARDS.items()
        )
        return [
            f"trained   {self.trained / 1e6:,.1f} M parameters",
            f"frozen    {self.frozen / 1e6:,.1f} M parameters",
            f"latents   audio {shapes.audio}, video {shapes.video}: {stored / 2**20:.2f} MiB a clip on disk",
            f"memory    {self.state_bytes / _GIB:.2f} GiB for weights, gradients, average and optimiser",
            f"          {self.activation_bytes / _GIB:.2f} GiB kept for the backward pass of each clip,",
            f"          with {self.clips_per_pass} clips per pass on a single process",
            f"          {self.device_bytes() / _GIB:.1f} GiB in total on a single device (estimated)",
            f"clips     on a card of {fitting}",
            f"steps     {self.steps:,} of {self.batch_size} clips: {self.steps * self.batch_size:,} clips",
        ]


def estimate(recipe: Recipe) -> Estimate:
    """Estimate what a coupling recipe needs, by building its networks without weights.

    Raises:
        UserError: The recipe is for another stage, or a base's configuration can't be found.
    """
    if recipe.stage != "coupling":
        raise UserError(f"--dry-run is for recipes of the stage coupling; this one's is {recipe.stage}")
    bases: AV[Any] = AV(audio=_empty_base("audio", recipe), video=_empty_base("video", recipe))
    time, size = _clip(recipe, bases)
    pair: AV[Denoiser] = bases.map(lambda base: base.denoiser())
    rates = AV(audio=float(bases.audio.latents_per_second), video=float(time.fps) / bases.video.frame_step)
    with torch.device("meta"):
        coupling = Coupling.for_denoisers(pair, rates, **recipe.model)
    trains = recipe.options.train
    for base in (bases.audio, bases.video):
        for name, parameter in base.network.named_parameters():
            motion = base is bases.video and "motion" in name
            parameter.requires_grad_(trains in ("all", "scratch") or (trains == "motion" and motion))
    model = JointModel(pair, coupling)
    # Counted after JointModel is built, as training does: it freezes weights that can't learn, those of
    # cross-attention to a single token.
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    latents: AV[tuple[int, ...]] = AV(
        audio=bases.audio.latent_shape(time.samples), video=bases.video.latent_shape(time.frames, size)
    )
    # Under autocast nearly all is in half precision; what a network casts to float32 itself is counted so.
    cast(model, getattr(torch, recipe.loop.precision))
    kept = _kept_bytes(model, bases, latents, time.fps, recipe.loop.gradient_checkpointing)
    # float32: the weight, its gradient, its average and AdamW's two moments (one byte each if 8-bit).
    per_parameter = 12 + (2 if recipe.loop.optimizer == "adamw8bit" else 8)
    return Estimate(
        trained=trained,
        frozen=total - trained,
        state_bytes=trained * per_parameter + (total - trained) * frozen_dtype(recipe).itemsize,
        activation_bytes=kept,
        latents=latents,
        steps=recipe.loop.steps,
        batch_size=recipe.loop.batch_size,
        clips_per_pass=recipe.loop.batch_size // recipe.loop.accumulate,
    )


def consent_needed(recipe: Recipe) -> list[str]:
    """Find bases with pickled weights that the recipe does not allow.

    Returns:
        Lines for the terminal; empty if there is no problem.
    """
    named, lines = recipe.bases, []
    if named.allow_pickle:
        return []
    sources = [(_place(name, recipe), tuple(_family(name, recipe)[0].COMPONENTS)) for name in MODALITIES]
    sources.append((named.motion_adapter, ("",)))
    for source, components in sources:
        if not source:
            continue
        try:
            pickled = pickled_parts(source, components)
        except ConnectionError:
            lines.append(f"unknown   whether '{source}' has pickled weights: the Hub cannot be reached")
        else:
            lines += [f"problem   {refusal(repr(source), pickled)}"] if pickled else []
    return lines


def check_device(recipe: Recipe, processes: int = 1) -> None:
    """Raise if the recipe's device does not exist, or if training does not fit its memory.

    Args:
        recipe: The recipe. Memory is checked for the stage coupling only.
        processes: Number of processes that share a batch, each on its own device.

    Raises:
        UserError: The device is missing or too small; the message says what to change.
    """
    name = recipe.loop.device
    kind = name.partition(":")[0]
    backend: Any = getattr(torch, kind, None)
    if kind != "cpu" and not (hasattr(backend, "is_available") and backend.is_available()):
        raise UserError(
            f"'loop.device' is {name}, which torch {torch.__version__} does not find on this machine: "
            "choose cpu, or install torch for your device"
        )
    available = device_memory(recipe)
    if recipe.stage == "coupling" and available is not None:
        problem = estimate(recipe).problem(available, processes)
        if problem:
            raise UserError(problem)


def device_memory(recipe: Recipe) -> int | None:
    """Memory in bytes of the recipe's CUDA device; None for other devices or if it does not exist."""
    device = torch.device(recipe.loop.device)
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(device).total_memory


def _place(modality: str, recipe: Recipe) -> str:
    return str(getattr(recipe.bases, modality) or f"{recipe.bundle}/{modality}")


def _family(modality: str, recipe: Recipe) -> tuple[Any, dict[str, Any]]:
    """The family of a base, and the configuration of its network."""
    source = _place(modality, recipe)
    for family in FAMILIES[modality]:
        config = _config(source, family.NETWORK)
        if config is not None and config["_class_name"] in family.NETWORKS:
            return family, config
    raise UserError(
        f"there is no configuration of '{source}' here or on the Hub, so it can't be built: "
        "train or copy the bases there, or name others under 'bases'"
    )


def _empty_base(modality: str, recipe: Recipe) -> Any:
    """A base with its network and autoencoder on the meta device, and nothing else."""
    from diffusers import DDIMScheduler

    source = _place(modality, recipe)
    family, config = _family(modality, recipe)
    adapter = recipe.bases.motion_adapter or MOTION_ADAPTER
    if (source, adapter) == _PUBLISHED_VIDEO:
        config = {"_class_name": "UNetMotionModel", **MOTION_UNET}
    network = _built(config)
    if family is AnimateDiff and config["_class_name"] == "UNet2DConditionModel":
        network = _with_motion(network, adapter)
    autoencoder = _config(source, "vae")
    if autoencoder is None:
        raise UserError(f"'{source}' has no vae/config.json: name a base with an autoencoder")
    # Sizes do not depend on the noise schedule, and any vocoder has the rate of the published one.
    ddpm = family not in (Wan, StableAudio)
    others = {
        "scheduler": DDIMScheduler(clip_sample=False) if ddpm else StoredScheduler({}),
        "vocoder": SimpleNamespace(config=SimpleNamespace(sampling_rate=16_000)),
    }
    parts = {name: others.get(name) for name in family.COMPONENTS}
    return family(**{**parts, family.NETWORK: network, "vae": _built(autoencoder)})


def _with_motion(unet: Any, adapter: str) -> Any:
    from diffusers import UNetMotionModel

    config = _config(adapter, None)
    if config is None:
        raise UserError(f"there is no configuration of the motion adapter '{adapter}' here or on the Hub")
    with quiet(), torch.device("meta"):
        return UNetMotionModel.from_unet2d(unet, _built(config), load_weights=False)


def _config(source: str, part: str | None) -> dict[str, Any] | None:
    """The configuration of a part of ``source``, a folder or Hub id; None if there is none."""
    import diffusers

    if source in PUBLISHED and part is not None:
        return PUBLISHED[source].get(part)
    try:
        # load_config only reads the file, so any model class would do.
        with quiet():
            return dict(diffusers.UNet2DConditionModel.load_config(source, subfolder=part))
    except OSError:
        return None


def _built(config: dict[str, Any]) -> Any:
    """The network of a configuration, without weights."""
    import warnings

    import diffusers

    with quiet(), torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, about the norms of an autoencoder
        return getattr(diffusers, str(config["_class_name"])).from_config(config)


def _clip(recipe: Recipe, bases: AV[Any]) -> tuple[ClipTime, int]:
    """Length and rates of the recipe's clips, and their size in pixels.

    They are those of encoded clips if they are there. Otherwise the size is that in the recipe, and the
    length is four seconds, or the most that the base can make.
    """
    data, video, rate = recipe.data, bases.video, bases.audio.sample_rate
    index = Path(data.source) / INDEX
    if data.source in DOMAINS:
        world = domain(data.source)
        frames = min(world.FRAMES, video.max_frames or world.FRAMES)
        return ClipTime(Fraction(world.FPS), frames, rate), data.size
    if index.is_file():
        known = read_json(index)
        return ClipTime.from_seconds(known["seconds"], as_fps(known["fps"]), rate), int(known["size"])
    fps = Fraction(video.FPS)
    return ClipTime(fps, usual_frames(fps, video.max_frames, video.frame_step), rate), data.size


def _conditioning(base: Any, dtype: torch.dtype) -> Conditioning:
    """Text conditioning of one clip, of the shapes that a base's network takes."""
    config = base.network.config

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, device="meta", dtype=dtype)

    if isinstance(base, Wan):
        return zeros(1, TOKENS, config.text_dim)
    if isinstance(base, StableAudio):
        states = zeros(1, _TEXT["states"], config.cross_attention_input_dim)
        return {"states": states, "seconds": zeros(1, 1, config.global_states_input_dim)}
    if base.denoiser().per_frame:
        width = config.cross_attention_dim
        return zeros(1, _TEXT["unet"], width if isinstance(width, int) else width[-1])
    return zeros(1, config.projection_class_embeddings_input_dim or config.block_out_channels[0] * 4)


def _kept_bytes(
    model: JointModel, bases: AV[Any], shapes: AV[tuple[int, ...]], fps: Fraction, checkpointing: bool
) -> int:
    """Bytes that autograd keeps for the backward pass on one clip, excluding parameters."""
    dtype = model.dtype
    latents: AV[Tensor] = shapes.map(lambda shape: torch.zeros(1, *shape, device="meta", dtype=dtype))
    levels = AV.both(torch.ones(1, dtype=torch.float64))
    text: AV[Conditioning] = bases.map(lambda base: _conditioning(base, dtype))
    times = bases.map(lambda base, x: base.latent_times(x.shape[2], fps), latents)
    again = 0
    if checkpointing:
        # A transformer's block is computed again as a whole. What it keeps then comes on top.
        with _kept(model) as kept, _largest_block(model, kept) as largest:
            model(latents, levels, text, model.features(latents, levels, latents), times=times)
        again = max(largest, default=0)
        for network in (*_both(model.networks), model.coupling):
            network.enable_gradient_checkpointing()
    with _kept(model) as kept:
        outputs = model(latents, levels, text, model.features(latents, levels, latents), times=times)
    del outputs
    return kept() + again


@contextmanager
def _kept(model: nn.Module) -> Iterator[Callable[[], int]]:
    """Count what autograd keeps within the block; yields a function that says how much so far."""
    weights = {_storage(p) for p in model.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # prevents freed addresses from being reused

    def keep(tensor: Tensor) -> Tensor:
        address = _storage(tensor)
        if address not in weights and address not in kept:
            kept[address] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), _FusedAttention():
        yield lambda: sum(kept.values())


@contextmanager
def _largest_block(model: JointModel, kept: Callable[[], int]) -> Iterator[list[int]]:
    """Note what each block of a transformer keeps within the ``with`` block, in bytes."""
    before: list[int] = []
    found: list[int] = []
    handles = []
    for denoiser in _both(model.denoisers):
        for site in denoiser.sites():
            if site.layout == "tokens":
                block = denoiser.network.get_submodule(site.path)
                enter = lambda *_: before.append(kept())  # noqa: E731
                leave = lambda *_: found.append(kept() - before.pop())  # noqa: E731
                handles += [
                    block.register_forward_pre_hook(enter, prepend=True),
                    block.register_forward_hook(leave),
                ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


class _FusedAttention(TorchFunctionMode):
    """Attention that keeps what a fused kernel keeps; on the meta device torch would keep all weights."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _fused(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _fused(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
    return _Fused.apply(query, key, value)


class _Fused(torch.autograd.Function):
    """The shapes of a fused attention."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        output = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, output, q.new_empty(q.shape[:-1]))
        return output


def _both(pair: AV[Any]) -> tuple[Any, Any]:
    return pair.audio, pair.video


def _storage(tensor: Tensor | nn.Parameter) -> int:
    return tensor.untyped_storage()._cdata
