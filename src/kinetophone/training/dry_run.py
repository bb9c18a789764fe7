"""Dry run of a recipe: parameters, passes and memory, computed on the meta device without weights.

A forward pass on the meta device counts the tensors that autograd keeps for the backward pass. Temporary
tensors, text models and the driver are covered by a flat allowance of 1.5 GiB.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kinetophone.av import AV
from kinetophone.bases.audioldm import AudioLDM
from kinetophone.bases.computing import spatial_factor
from kinetophone.bases.protocol import Times
from kinetophone.bases.unet import denoisers
from kinetophone.bases.video import VideoBase
from kinetophone.coupling.coupling import Coupling
from kinetophone.coupling.model import JointModel
from kinetophone.errors import UserError
from kinetophone.hub.components import quiet
from kinetophone.hub.locate import pickled_parts
from kinetophone.hub.weights import refusal
from kinetophone.reference.networks import AUDIO_UNET, MOTION_UNET
from kinetophone.training.recipe import Recipe, frozen_dtype

# The published pair. Its configurations ship with the package, so a dry run needs no internet access.
_PUBLISHED_AUDIO = "cvssp/audioldm-m-full"
_PUBLISHED_VIDEO = ("SG161222/Realistic_Vision_V5.1_noVAE", "guoyww/animatediff-motion-adapter-v1-5-2")
_PUBLISHED_FACTORS = AV(audio=4, video=8)
_FRAMES, _MEL_FRAMES, _MEL_BINS = 32, 400, 64  # of the published clips: 4 s at 8 fps
_GIB = 2**30
_REST = 3 * 2**29  # 1.5 GiB: text models, the driver's libraries, temporary tensors


@dataclass(frozen=True)
class Estimate:
    """Parameter counts, memory and amount of work of a training run.

    Attributes:
        trained: Number of trained parameters.
        frozen: Number of frozen parameters.
        state_bytes: Bytes for weights, gradients, moving average and optimiser state.
        activation_bytes: Bytes that each clip keeps for the backward pass.
        steps: Optimiser steps.
        batch_size: Clips per step.
        clips_per_pass: Clips per forward pass if one process trains alone.
    """

    trained: int
    frozen: int
    state_bytes: int
    activation_bytes: int
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

    def lines(self) -> list[str]:
        """The estimate as lines for the terminal."""
        return [
            f"trained   {self.trained / 1e6:,.1f} M parameters",
            f"frozen    {self.frozen / 1e6:,.1f} M parameters",
            f"memory    {self.state_bytes / _GIB:.2f} GiB for weights, gradients, average and optimiser",
            f"          {self.activation_bytes / _GIB:.2f} GiB kept for the backward pass of each clip,",
            f"          with {self.clips_per_pass} clips per pass on a single process",
            f"          {self.device_bytes() / _GIB:.1f} GiB in total on a single device (estimated)",
            f"steps     {self.steps:,} of {self.batch_size} clips: {self.steps * self.batch_size:,} clips",
        ]


def estimate(recipe: Recipe) -> Estimate:
    """Estimate what a coupling recipe needs, by building its networks without weights.

    Raises:
        UserError: The recipe is for another stage, or a base's configuration can't be found.
    """
    if recipe.stage != "coupling":
        raise UserError(f"--dry-run is for recipes of the stage coupling; this one's is {recipe.stage}")
    video, audio = _video_unet(recipe), _audio_unet(recipe)
    pair = denoisers(AV(audio=audio, video=video))
    with torch.device("meta"):
        coupling = Coupling.for_denoisers(pair, **recipe.model)
    trains = recipe.options.train
    for unet in (audio, video):
        for name, parameter in unet.named_parameters():
            motion = unet is video and "motion" in name
            parameter.requires_grad_(trains in ("all", "scratch") or (trains == "motion" and motion))
    if recipe.loop.gradient_checkpointing:
        for network in (audio, video, coupling):
            network.enable_gradient_checkpointing()
    model = JointModel(pair, coupling)
    # Counted after JointModel is built, as training does: it freezes weights that can't learn, those of
    # cross-attention to a single token.
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    kept = _kept_bytes(model, recipe.data.size, _factors(recipe))
    if recipe.loop.precision != "float32":
        kept //= 2
    # float32: the weight, its gradient, its average and AdamW's two moments (one byte each if 8-bit).
    per_parameter = 12 + (2 if recipe.loop.optimizer == "adamw8bit" else 8)
    return Estimate(
        trained=trained,
        frozen=total - trained,
        state_bytes=trained * per_parameter + (total - trained) * frozen_dtype(recipe).itemsize,
        activation_bytes=kept,
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
    sources = [
        (named.audio or f"{recipe.bundle}/audio", tuple(AudioLDM.COMPONENTS)),
        (named.video or f"{recipe.bundle}/video", tuple(VideoBase.COMPONENTS)),
        (named.motion_adapter, ("",)),
    ]
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


def _audio_unet(recipe: Recipe) -> Any:
    from diffusers import UNet2DConditionModel

    if recipe.bases.audio == _PUBLISHED_AUDIO:
        with torch.device("meta"):
            return UNet2DConditionModel(**AUDIO_UNET)
    return _build_empty(recipe.bases.audio or f"{recipe.bundle}/audio", "unet")


def _video_unet(recipe: Recipe) -> Any:
    from diffusers import UNet2DConditionModel, UNetMotionModel

    from kinetophone.bases.animatediff import MOTION_ADAPTER

    adapter = recipe.bases.motion_adapter or MOTION_ADAPTER
    if (recipe.bases.video, adapter) == _PUBLISHED_VIDEO:
        with torch.device("meta"):
            return UNetMotionModel(**MOTION_UNET)
    unet = _build_empty(recipe.bases.video or f"{recipe.bundle}/video", "unet")
    if not isinstance(unet, UNet2DConditionModel):
        return unet
    modules = _build_empty(adapter, None)
    with quiet(), torch.device("meta"):
        return UNetMotionModel.from_unet2d(unet, modules, load_weights=False)


def _build_empty(source: str, subfolder: str | None) -> Any:
    """Build the network configured at ``source``, a folder or Hub id, without weights."""
    import diffusers

    try:
        # load_config only reads the file, so any model class would do.
        with quiet():
            settings: Any = diffusers.UNet2DConditionModel.load_config(source, subfolder=subfolder)
    except OSError as error:
        raise UserError(
            f"there is no configuration of '{source}' here or on the Hub, so it can't be built: "
            "train or copy the bases there, or name others under 'bases'"
        ) from error
    with quiet(), torch.device("meta"):
        return getattr(diffusers, str(settings["_class_name"])).from_config(settings)


def _factors(recipe: Recipe) -> AV[int]:
    """By how much each base's autoencoder reduces a side."""
    published = AV(audio=_PUBLISHED_AUDIO, video=_PUBLISHED_VIDEO[0])
    own = AV(audio=f"{recipe.bundle}/audio", video=f"{recipe.bundle}/video")
    named = AV(audio=recipe.bases.audio or own.audio, video=recipe.bases.video or own.video)
    return named.map(
        lambda name, known, usual: usual if name == known else spatial_factor(_build_empty(name, "vae")),
        published,
        _PUBLISHED_FACTORS,
    )


def _kept_bytes(model: JointModel, size: int, factors: AV[int]) -> int:
    """Bytes that autograd keeps for the backward pass on one clip, excluding parameters."""
    video, audio = model.networks.video.config, model.networks.audio.config
    side = max(size // factors.video, 2 ** (len(video.block_out_channels) - 1))
    frames = min(_FRAMES, video.get("motion_max_seq_length") or _FRAMES)
    length = _MEL_FRAMES // factors.audio
    length += -length % 2 ** (len(audio.block_out_channels) - 1)
    context = video.cross_attention_dim
    width = context if isinstance(context, int) else context[-1]
    labels = audio.projection_class_embeddings_input_dim or audio.block_out_channels[0] * 4

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, device="meta")

    latents = AV(
        audio=zeros(1, audio.in_channels, length, _MEL_BINS // factors.audio),
        video=zeros(1, video.in_channels, frames, side, side),
    )
    levels = AV.both(torch.ones(1, dtype=torch.float64))
    text = AV(audio=zeros(1, labels), video=zeros(1, 77, width))
    times = AV(audio=Times.even(length, 25.0), video=Times.even(frames, 8.0))
    weights = {_storage(p) for p in model.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # prevents freed addresses from being reused

    def keep(tensor: Tensor) -> Tensor:
        address = _storage(tensor)
        if address not in weights and address not in kept:
            kept[address] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = model.features(latents, levels, latents)
        alive.extend(_tensors(model(latents, levels, text, features, times=times)))
    return sum(kept.values())


def _tensors(pair: AV[Tensor]) -> Iterable[Tensor]:
    return (pair.audio, pair.video)


def _storage(tensor: Tensor | nn.Parameter) -> int:
    return tensor.untyped_storage()._cdata
