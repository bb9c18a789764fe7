"""What a recipe would train, found without weights: parameters, passes and memory, on the meta device.

The tensors that a step keeps for its backward pass are counted as a real pass would keep them. What is
computed and thrown away in between, text models and the driver are an allowance of 1.5 GiB.
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

# The published pair, so that its recipe needs no network to be tried.
_PUBLISHED_AUDIO = "cvssp/audioldm-m-full"
_PUBLISHED_VIDEO = ("SG161222/Realistic_Vision_V5.1_noVAE", "guoyww/animatediff-motion-adapter-v1-5-2")
_PUBLISHED_FACTORS = AV(audio=4, video=8)
_FRAMES, _MEL_FRAMES, _MEL_BINS = 32, 400, 64  # of the published clips: 4 s at 8 fps
_GIB = 2**30
_REST = 3 * 2**29  # 1.5 GiB: text models, the driver's libraries, what a pass computes and throws away


@dataclass(frozen=True)
class Estimate:
    """Parameters trained and frozen, bytes for a process and for a clip, and clips of the whole training."""

    trained: int
    frozen: int
    state_bytes: int
    activation_bytes: int
    steps: int
    batch_size: int
    clips_per_pass: int

    def device_bytes(self, processes: int = 1) -> int:
        """What each of some processes that share a batch out needs on its device."""
        clips = -(-self.clips_per_pass // processes)
        return self.state_bytes + clips * self.activation_bytes + _REST

    def problem(self, available: int, processes: int = 1) -> str | None:
        """Why training does not fit a device of ``available`` bytes, and the cure; None if it does."""
        needed = self.device_bytes(processes)
        if needed <= available:
            return None
        return (
            f"training needs about {needed / _GIB:.1f} GiB on the device, which has {available / _GIB:.1f}: "
            "set a larger 'loop.accumulate', 'loop.gradient_checkpointing: true', "
            "'loop.precision: bfloat16' or 'loop.optimizer: adamw8bit'"
        )

    def lines(self) -> list[str]:
        """For the terminal."""
        return [
            f"trained   {self.trained / 1e6:,.1f} M parameters",
            f"frozen    {self.frozen / 1e6:,.1f} M parameters",
            f"memory    {self.state_bytes / _GIB:.2f} GiB for weights, gradients, average and optimiser",
            f"          {self.activation_bytes / _GIB:.2f} GiB kept for the backward pass of each clip,",
            f"          of which one process alone takes {self.clips_per_pass} at once",
            f"          {self.device_bytes() / _GIB:.1f} GiB in all, on one device alone (computed)",
            f"steps     {self.steps:,} of {self.batch_size} clips: {self.steps * self.batch_size:,} clips",
        ]


def estimate(recipe: Recipe) -> Estimate:
    """Build a coupling recipe's networks without their weights and count.

    Raises:
        UserError: for another stage, or if a base's configuration can't be found.
    """
    if recipe.stage != "coupling":
        raise UserError(f"--dry-run is for recipes of the stage coupling; this one's is {recipe.stage}")
    video, audio = _video_unet(recipe), _audio_unet(recipe)
    with torch.device("meta"):
        coupling = Coupling.for_unets(AV(audio=audio, video=video), **recipe.model)
    trains = recipe.options.train
    for unet in (audio, video):
        for name, parameter in unet.named_parameters():
            motion = unet is video and "motion" in name
            parameter.requires_grad_(trains in ("all", "scratch") or (trains == "motion" and motion))
    if recipe.loop.gradient_checkpointing:
        for network in (audio, video, coupling):
            network.enable_gradient_checkpointing()
    model = JointModel(denoisers(AV(audio=audio, video=video)), coupling)
    # The same count as training's: cross-attention to one token has weights that can't learn.
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    kept = _kept_bytes(model, recipe.data.size, _factors(recipe))
    if recipe.loop.precision != "float32":
        kept //= 2
    # float32: the weight, its gradient, its average and AdamW's two moments (a byte each where 8-bit).
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
    """What a recipe does not allow and its bases need: pickled weights. Lines for the terminal."""
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
    """Refuse a recipe whose device is not there, or whose training does not fit it.

    Args:
        recipe: of any stage; the memory of a coupling's training is known.
        processes: how many share a batch out, each on a device of its own.

    Raises:
        UserError: with what is missing and what to change.
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
    """Bytes of the CUDA device that a recipe names; None of another, or where it is not there."""
    device = torch.device(recipe.loop.device)
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(device).total_memory


def _audio_unet(recipe: Recipe) -> Any:
    from diffusers import UNet2DConditionModel

    if recipe.bases.audio == _PUBLISHED_AUDIO:
        with torch.device("meta"):
            return UNet2DConditionModel(**AUDIO_UNET)
    return _built(recipe.bases.audio or f"{recipe.bundle}/audio", "unet")


def _video_unet(recipe: Recipe) -> Any:
    from diffusers import UNet2DConditionModel, UNetMotionModel

    from kinetophone.bases.animatediff import MOTION_ADAPTER

    adapter = recipe.bases.motion_adapter or MOTION_ADAPTER
    if (recipe.bases.video, adapter) == _PUBLISHED_VIDEO:
        with torch.device("meta"):
            return UNetMotionModel(**MOTION_UNET)
    unet = _built(recipe.bases.video or f"{recipe.bundle}/video", "unet")
    if not isinstance(unet, UNet2DConditionModel):
        return unet
    modules = _built(adapter, None)
    with quiet(), torch.device("meta"):
        return UNetMotionModel.from_unet2d(unet, modules, load_weights=False)


def _built(source: str, subfolder: str | None) -> Any:
    """The network whose configuration is there, without weights."""
    import diffusers

    try:
        # It only reads: any class would do.
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
    """By how much each base's autoencoder shrinks a side."""
    published = AV(audio=_PUBLISHED_AUDIO, video=_PUBLISHED_VIDEO[0])
    own = AV(audio=f"{recipe.bundle}/audio", video=f"{recipe.bundle}/video")
    named = AV(audio=recipe.bases.audio or own.audio, video=recipe.bases.video or own.video)
    return named.map(
        lambda name, known, usual: usual if name == known else spatial_factor(_built(name, "vae")),
        published,
        _PUBLISHED_FACTORS,
    )


def _kept_bytes(model: JointModel, size: int, factors: AV[int]) -> int:
    """Bytes of the tensors that training on one clip keeps for the backward pass, parameters apart."""
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
    alive: list[Tensor] = []  # so that no address is used twice

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
