"""What a recipe may say under ``options``, one dataclass per sort of stage. Defaults: the published training.

No torch here: a recipe is checked before anything heavy is imported.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

# What is read from YAML: a key that there is not is an error.
FORBID = ConfigDict(extra="forbid")
share = partial(Field, ge=0, le=1)
not_negative = partial(Field, ge=0)


def positive(default: Any = ...) -> Any:
    """A field above 0, required where no default is given."""
    return Field(default, gt=0)


@dataclass(frozen=True, kw_only=True, config=FORBID)
class NoOptions:
    """For stages without any."""


@dataclass(frozen=True, kw_only=True, config=FORBID)
class LatentNoiseOptions:
    """Of the video autoencoder: ``latent_noise`` is the deviation of the noise on its latents in training."""

    latent_noise: float = not_negative(0.1)


@dataclass(frozen=True, kw_only=True, config=FORBID)
class DecoderOptions(LatentNoiseOptions):
    """Of the video decoder.

    Attributes:
        adversarial: Weight of the discriminator's opinion beside the mean absolute error; 0, for a decoder
            that has yet to learn what there is, does without one.
        estimated: Share of clips whose latents are the video base's estimates of them.
        most_noise: Timestep below which those are made.
        kept: Share of the weights it started from in those it exports, the rest being the trained ones
            (network interpolation, arXiv 1809.00219): what a discriminator adds, edges and patterns of its
            own, can be had in part.
    """

    adversarial: float = not_negative(0.0)
    estimated: float = share(0.5)
    most_noise: int = positive(400)
    kept: float = share(0.0)


@dataclass(frozen=True, kw_only=True, config=FORBID)
class TextOptions:
    """Of the text encoders: tokens known, and tokens of a caption."""

    vocabulary: int = positive()
    length: int = positive()


@dataclass(frozen=True, kw_only=True, config=FORBID)
class ImageOptions:
    """``text_dropout``: share of captions that are emptied, for classifier-free guidance."""

    text_dropout: float = share(0.1)


@dataclass(frozen=True, kw_only=True, config=FORBID)
class DiffusionOptions(ImageOptions):
    """``snr_gamma``: γ of min-SNR weights, as in ``noise_loss``; infinite: the plain mean squared error."""

    snr_gamma: float = positive(math.inf)


@dataclass(frozen=True, kw_only=True, config=FORBID)
class MotionOptions(DiffusionOptions):
    """``train``: only the motion modules, as AnimateDiff was trained, or all of the U-Net."""

    train: Literal["motion", "all"] = "motion"


@dataclass(frozen=True, kw_only=True, config=FORBID)
class CouplingOptions(DiffusionOptions):
    """Of the coupling (arXiv 2409.17550, section 3, and later work).

    Attributes:
        self_conditioning: Share of batches whose connectors see an estimate of the clean latents.
        estimate_at: Noise level of that estimate: the "connector"'s, where sampling makes it, or the
            "unet"'s, as in the published code.
        connector_dropout: Share of samples whose inserted blocks are off, for each U-Net by itself, so that
            one that learns stays good without them, as cross-modal guidance needs. One that is frozen is so
            anyway, and skips them.
        aligned_share: Share of batches whose connector levels lie near the sampler's path instead of
            anywhere.
        noise_levels: Levels of the two U-Nets: "independent", "shared" by both, or "mixed", shared by about
            half of the samples.
        one_clean: Share of samples of which one modality is given: the other U-Net's connector reads it
            clean, and it carries no loss (audio to video, video to audio).
        timestep_power: Timesteps of the two U-Nets are drawn as T_MAX · u^power, u uniform: below 1 the noisy
            ones, where things are placed in time, come more often.
        relative: Weight each noise level by the inverse of the base's own error there, in place of
            ``snr_gamma``: where the bases are nearly right is where things are placed in time.
        train: What learns: the "coupling" alone, also the "motion" modules of the video base, or "all"
            of both U-Nets; "scratch" is all, with U-Nets of random weights, to compare adapting with.
    """

    self_conditioning: float = share(0.5)
    estimate_at: Literal["connector", "unet"] = "connector"
    connector_dropout: float = share(0.0)
    aligned_share: float = share(0.0)
    noise_levels: Literal["independent", "shared", "mixed"] = "independent"
    one_clean: float = share(0.0)
    timestep_power: float = positive(1.0)
    relative: bool = False
    train: Literal["coupling", "motion", "all", "scratch"] = "coupling"
