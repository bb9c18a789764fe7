"""The joint model: two base U-Nets, attached to one another by a coupling.

The bases are neither edited nor re-implemented. Forward hooks behind named blocks (the *sites*) pass each
map through an inserted block while a feature is set, and do nothing otherwise, so a base keeps working alone.

Shape legend: B batch, C latent channels, T video frames, H, W video latent size, L audio latent steps,
M mel bins of the audio latent, S text tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import UNet2DConditionModel, UNet3DConditionModel, UNetMotionModel
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kinetophone.av import AV, MODALITIES
from kinetophone.coupling.coupling import Coupling, Site
from kinetophone.coupling.times import at_site

SUPPORTED = AV(audio=(UNet2DConditionModel,), video=(UNetMotionModel, UNet3DConditionModel))


@dataclass(frozen=True, slots=True)
class _Signal:
    """What conditions one U-Net during one forward pass."""

    feature: Tensor  # made from the other modality
    coupled: Tensor | None  # (B,) bool; None: every sample
    frames: int | None  # T for video, None for audio
    rates: tuple[float, float] | None  # latents per second, its own and the other's
    lengths: tuple[int, int]  # of the latents along time, its own and the other's


# The forward pass that this thread is in: of which model, and what conditions its U-Nets. A variable of the
# call rather than an attribute of the model: threads that share a model must not see one another's features,
# nor must two models that share a base.
_CALL: ContextVar[tuple[JointModel, AV[_Signal | None]] | None] = ContextVar("kinetophone_call", default=None)


class JointModel(nn.Module):
    """Noise prediction for an audio latent and a video latent that belong together.

    Args:
        unets: base U-Nets, frozen or not: video UNetMotionModel or UNet3DConditionModel, audio
            UNet2DConditionModel. They get forward hooks and are otherwise unmodified.
        coupling: connectors and inserted blocks made for U-Nets of these widths.

    Raises:
        TypeError: if a U-Net is of a class that is not supported.
        RequestError: if the coupling was made for other U-Nets.
    """

    def __init__(self, unets: AV[nn.Module], coupling: Coupling) -> None:
        super().__init__()
        for modality in MODALITIES:
            unet, allowed = getattr(unets, modality), getattr(SUPPORTED, modality)
            if not isinstance(unet, allowed):
                raise TypeError(
                    f"the {modality} U-Net is a {type(unet).__name__}, which is not supported: "
                    f"use {' or '.join(cls.__name__ for cls in allowed)}"
                )
        coupling.check(unets)
        self.unet_audio: Any = unets.audio
        self.unet_video: Any = unets.video
        self.coupling = coupling
        self._handles: list[RemovableHandle] = []
        for modality in MODALITIES:
            for site in coupling.sites(modality):
                block = getattr(getattr(unets, modality), f"{site.stage}_blocks")[site.index]
                # partial, not a closure: copy.deepcopy copies a partial's arguments, so that the hooks of a
                # copied model serve the copy. A closure would keep serving the original, and the copy (an
                # EMA model, say) would silently run uncoupled.
                self._handles.append(block.register_forward_hook(partial(_at_site, self, site)))

    @property
    def unets(self) -> AV[Any]:
        """The two base U-Nets."""
        return AV(audio=self.unet_audio, video=self.unet_video)

    def detach(self) -> None:
        """Remove the hooks from the bases for good; this model predicts uncoupled from then on."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @apply_forward_hook  # an offloaded model comes to its device before this, as before forward
    def features(self, latents: AV[Tensor], timesteps: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        """Run both connectors. ``features.audio`` is made *from* audio and conditions the *video* U-Net.

        Args:
            latents: noisy latents, audio (B, C, L, M), video (B, C, T, H, W).
            timesteps: noise level (B,) of each latent, 0…999; in training they may differ from those that
                the U-Nets are given.
            x0_hat: the last estimate of the clean latents (self-conditioning), or None.

        Returns:
            Features for :meth:`forward`, as :meth:`Coupling.features` gives them.
        """
        return self.coupling.features(latents, self.unets.map(_embed_time, timesteps), x0_hat)

    def forward(
        self,
        latents: AV[Tensor],
        timesteps: AV[Tensor],
        text: AV[Tensor],
        features: AV[Tensor] | None = None,
        coupled: AV[Tensor | None] | None = None,
        only: str | None = None,
        rates: AV[float] | None = None,
    ) -> AV[Tensor]:
        """Predict the noise in both latents.

        The U-Nets do not see one another here, only the features, so the two batch sizes may differ, as in
        guidance of one modality alone; each must match the feature that conditions it.

        Args:
            latents: noisy latents, audio (B, C, L, M), video (B, C, T, H, W). L and M must be multiples of
                :attr:`audio_multiple`: pad with zeros before noise is added, cut after generation.
            timesteps: noise level (B,) of each latent.
            text: audio (B, D) class labels, video (B, S, D) hidden states.
            features: from :meth:`features`; None switches the coupling off, leaving exactly the bases.
            coupled: per U-Net, bool (B,); where False, its inserted blocks contribute nothing to that sample.
            only: "audio" or "video": run that U-Net alone, as where the other modality is given.
            rates: latents per second of each modality; a coupling with the alignment "seconds" needs them.

        Returns:
            Noise predictions in the shapes of ``latents``; zeros for a U-Net that was not run.

        Raises:
            ValueError: if shapes do not fit one another or the U-Nets.
        """
        self._check_shapes(latents, timesteps, text, features, coupled)
        masks: AV[Tensor | None] = AV.both(None) if coupled is None else coupled
        signals: AV[_Signal | None] = AV.both(None)
        if features is not None:
            frames, length = latents.video.shape[2], latents.audio.shape[2]
            audio_rates, video_rates = self._rates(rates)
            signals = AV(
                audio=_Signal(features.video, masks.audio, None, audio_rates, (length, frames)),
                video=_Signal(features.audio, masks.video, frames, video_rates, (frames, length)),
            )
        with self._signalling(signals):
            audio, video = (torch.zeros_like(x) for x in (latents.audio, latents.video))
            if only != "video":
                audio = self._predict_audio(latents.audio, timesteps.audio, text.audio)
            if only != "audio":
                video = self._predict_video(latents.video, timesteps.video, text.video)
            return AV(audio=audio, video=video)

    @property
    def audio_multiple(self) -> int:
        """Total down-sampling of the audio U-Net: audio latent lengths must be multiples of it."""
        return 2 ** (len(self.unet_audio.config.block_out_channels) - 1)

    def _rates(
        self, rates: AV[float] | None
    ) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
        config = self.coupling.config
        if config.alignment == "stretched" or config.coupling == "cross_attention":  # one token has no time
            return None, None
        if rates is None:
            raise ValueError(
                "the coupling aligns by seconds: give rates, the latents per second of each modality"
            )
        return (rates.audio, rates.video), (rates.video, rates.audio)

    def _predict_audio(self, x: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        return self.unet_audio(
            x, timesteps, encoder_hidden_states=None, class_labels=text, return_dict=False
        )[0]

    def _predict_video(self, x: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        if isinstance(self.unet_video, UNetMotionModel):
            # It repeats the timestep embedding per frame itself but wants text repeated already, whereas
            # UNet3DConditionModel repeats both (diffusers 0.42).
            text = text.repeat_interleave(x.shape[2], dim=0)
        return self.unet_video(x, timesteps, encoder_hidden_states=text, return_dict=False)[0]

    @contextmanager
    def _signalling(self, signals: AV[_Signal | None]) -> Iterator[None]:
        token = _CALL.set((self, signals))
        try:
            yield
        finally:  # also after an error, lest a base on its own be conditioned by a stale feature
            _CALL.reset(token)

    def _check_shapes(
        self,
        latents: AV[Tensor],
        timesteps: AV[Tensor],
        text: AV[Tensor],
        features: AV[Tensor] | None,
        coupled: AV[Tensor | None] | None,
    ) -> None:
        for modality, dims in (("audio", "(B, C, L, M)"), ("video", "(B, C, T, H, W)")):
            x = getattr(latents, modality)
            if x.dim() != len(dims.split(",")):
                raise ValueError(f"{modality} latents have shape {tuple(x.shape)}, expected {dims}")
            given = {"timesteps": getattr(timesteps, modality), "text": getattr(text, modality)}
            if features is not None:
                given["features made from the other modality"] = getattr(features.swap(), modality)
            if coupled is not None and getattr(coupled, modality) is not None:
                given["coupled"] = getattr(coupled, modality)
            for name, value in given.items():
                if value.dim() == 0 or value.shape[0] != x.shape[0]:
                    raise ValueError(
                        f"{modality} {name} have shape {tuple(value.shape)}, but the batch of {modality} "
                        f"latents is {x.shape[0]}"
                    )
        multiple, (length, bins) = self.audio_multiple, latents.audio.shape[2:]
        if length % multiple or bins % multiple:
            raise ValueError(
                f"audio latents are {length} × {bins} (time × mel), but the audio U-Net needs multiples of "
                f"{multiple}: pad with zeros to {-(-length // multiple) * multiple} × "
                f"{-(-bins // multiple) * multiple} and cut after generation"
            )


def _embed_time(unet: Any, timesteps: Tensor) -> Tensor:
    """The U-Net's own embedding (B, E) of timesteps (B,), without class or text embedding."""
    embedding = unet.time_embedding(unet.time_proj(timesteps).to(unet.dtype))
    activation = getattr(unet, "time_embed_act", None)
    return embedding if activation is None else activation(embedding)


def _at_site(model: JointModel, site: Site, block: nn.Module, args: Any, output: Any) -> Any:
    """Forward hook: the output of a U-Net block, conditioned; None (leave it) while no feature is set."""
    call = _CALL.get()
    if call is None or call[0] is not model:
        return None
    signal = getattr(call[1], site.modality)
    if signal is None:
        return None
    x = output[0] if site.stage == "down" else output
    times = None
    if signal.rates is not None:
        (own_rate, other_rate), (own, other) = signal.rates, signal.lengths
        rows = x.shape[2] if signal.frames is None else signal.frames
        times = at_site(rows, own, own_rate, signal.feature.shape[2], other, other_rate, x.device)
    conditioned = model.coupling.condition(site, x, signal.feature, signal.frames, times)
    if signal.coupled is not None:
        # Selecting, rather than weighting by 0, makes "off" exact; computing all samples keeps every
        # parameter in the graph, as distributed training needs.
        keep = signal.coupled.to(x.device).repeat_interleave(x.shape[0] // signal.coupled.shape[0])
        conditioned = torch.where(keep[:, None, None, None], conditioned, x)
    if site.stage == "up":
        return conditioned
    skips = output[1]
    return conditioned, (*skips[:-1], conditioned)
