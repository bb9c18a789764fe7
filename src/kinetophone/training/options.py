"""The ``options`` section of recipes, one dataclass per kind of stage. Defaults: the published training.

This module does not import torch, because a recipe is checked before anything heavy is imported.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

# For dataclasses that are read from YAML: an unknown key is an error.
FORBID = ConfigDict(extra="forbid")
fraction = partial(Field, ge=0, le=1)
non_negative = partial(Field, ge=0)


def positive(default: Any = ...) -> Any:
    """A field above 0; required if no default is given."""
    return Field(default, gt=0)


@dataclass(frozen=True, kw_only=True, config=FORBID)
class NoOptions:
    """For stages without options."""


@dataclass(frozen=True, kw_only=True, config=FORBID)
class LatentNoiseOptions:
    """Options of the video autoencoder.

    Attributes:
        latent_noise: Standard deviation of the noise added to the latents in training.
    """

    latent_noise: float = non_negative(0.1)


@dataclass(frozen=True, kw_only=True, config=FORBID)
class CausalOptions(LatentNoiseOptions):
    """Options of the causal video autoencoder.

    Attributes:
        frames: Number of frames of a training crop, 1 plus a multiple of the frames per latent step.
    """

    frames: int = positive(17)


@dataclass(frozen=True, kw_only=True, config=FORBID)
class DecoderOptions(LatentNoiseOptions):
    """Options of the video decoder.

    Attributes:
        adversarial: Weight of the adversarial loss relative to the mean absolute error; 0 trains without a
            discriminator.
        estimated: Fraction of clips whose latents are replaced with the video base's estimates.
        most_noise: Upper limit of the timesteps at which the base makes these estimates.
        kept: Weight of the initial weights in the exported ones, from 0 to 1; the rest are the trained
            weights (network interpolation, arXiv 1809.00219). It reduces the artificial edges and patterns
            that a discriminator adds.
    """

    adversarial: float = non_negative(0.0)
    estimated: float = fraction(0.5)
    most_noise: int = positive(400)
    kept: float = fraction(0.0)


@dataclass(frozen=True, kw_only=True, config=FORBID)
class TextOptions:
    """Options of the text encoders.

    Attributes:
        vocabulary: Number of tokens in the vocabulary.
        length: Number of tokens per caption.
    """

    vocabulary: int = positive()
    length: int = positive()


@dataclass(frozen=True, kw_only=True, config=FORBID)
class CaptionOptions(TextOptions):
    """Options of the text encoders that are trained on captions alone.

    Attributes:
        modality: The base that the encoder is for: "video" gives a UMT5 encoder, "audio" a T5 encoder.
    """

    modality: Literal["audio", "video"]


@dataclass(frozen=True, kw_only=True, config=FORBID)
class ImageOptions:
    """Options of the image stage.

    Attributes:
        text_dropout: Fraction of captions replaced with "", for classifier-free guidance.
    """

    text_dropout: float = fraction(0.1)


@dataclass(frozen=True, kw_only=True, config=FORBID)
class DiffusionOptions(ImageOptions):
    """Options of the diffusion stages.

    Attributes:
        snr_gamma: γ of the min-SNR loss weights, see ``diffusion.min_snr``; infinite (the default) is the
            unweighted mean squared error.
    """

    snr_gamma: float = positive(math.inf)


@dataclass(frozen=True, kw_only=True, config=FORBID)
class MotionOptions(DiffusionOptions):
    """Options of the motion stage.

    Attributes:
        train: "motion" trains the motion modules only, as AnimateDiff did; "all" trains the entire U-Net.
    """

    train: Literal["motion", "all"] = "motion"


@dataclass(frozen=True, kw_only=True, config=FORBID)
class CouplingOptions(DiffusionOptions):
    """Options of the coupling (arXiv 2409.17550, section 3, and later work).

    Attributes:
        self_conditioning: Fraction of batches whose connectors see an estimate of the clean latents.
        estimate_at: Noise level of that estimate: "connector", as in sampling, or "unet", as in the
            published code.
        connector_dropout: Fraction of samples whose inserted blocks are off, drawn for each U-Net
            separately. It keeps a trained U-Net good without them, as cross-modal guidance needs. A frozen
            U-Net skips these samples.
        aligned_share: Fraction of batches whose connector levels are near the sampler's path instead of
            independent.
        noise_levels: Levels of the two U-Nets: "independent", "shared" by both, or "mixed", which shares
            them in about half of the samples.
        one_clean: Fraction of samples with one modality given (audio to video or video to audio). The
            connector reads that modality clean, and its U-Net has no loss.
        timestep_power: Timesteps of the two U-Nets are drawn as T_MAX · u^power with u uniform in [0, 1].
            Powers below 1 favour noisy timesteps, where the timing of events is decided.
        relative: Weight each noise level by the inverse of the base's own error there, instead of using
            ``snr_gamma``. This favours noisy levels, where the timing of events is decided.
        train: What is trained: "coupling" only; "motion", also the motion modules of the video base; "all",
            also both U-Nets; "scratch", the same from random U-Net weights, as a baseline for adapting.
    """

    self_conditioning: float = fraction(0.5)
    estimate_at: Literal["connector", "unet"] = "connector"
    connector_dropout: float = fraction(0.0)
    aligned_share: float = fraction(0.0)
    noise_levels: Literal["independent", "shared", "mixed"] = "independent"
    one_clean: float = fraction(0.0)
    timestep_power: float = positive(1.0)
    relative: bool = False
    train: Literal["coupling", "motion", "all", "scratch"] = "coupling"
