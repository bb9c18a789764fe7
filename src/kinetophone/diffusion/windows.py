"""Clips longer than the model was trained for, generated in overlapping windows.

Each window is predicted like a separate clip. Predictions are averaged where windows overlap (MultiDiffusion,
arXiv 2302.08113), with weights that fade each window in and out to avoid seams. Both modalities are cut at
the same times, so they stay in sync. Alternatively, windows are generated one after the other, each
continuing the second half of the previous one (:func:`carried`).

Shape legend: audio latents (B, C, L, M), video latents (B, C, T, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from kinetophone.av import AV
from kinetophone.diffusion.inpainting import Given
from kinetophone.diffusion.sample import Predict

TIME_AXIS = AV(audio=2, video=2)


@dataclass(frozen=True, slots=True)
class Window:
    """A window over both modalities: first position and length along time, in latents.

    Attributes:
        start: First position.
        length: Number of latents.
        head: Video latents at its beginning that are context only: their output is not used.
    """

    start: AV[int]
    length: AV[int]
    head: int = 0

    @property
    def end(self) -> AV[int]:
        """The position after the last one."""
        return self.start.map(lambda start, length: start + length, self.length)

    def cut(self, latents: AV[Tensor]) -> AV[Tensor]:
        """The window's part of ``latents``."""
        return latents.map(lambda x, axis, s, n: x.narrow(axis, s, n), TIME_AXIS, self.start, self.length)


def plan_windows(frames: int, window: AV[int], latents_per_frame: Fraction) -> list[Window]:
    """Windows that cover ``frames`` frames, each overlapping the next by half or slightly more.

    Args:
        frames: length of the clip.
        window: length of a window: audio latents, including the padding of the network, and frames.
        latents_per_frame: audio latents per frame.

    Returns:
        One or more windows. Each starts where a frame and an audio latent start at the same time. The last
        one may extend beyond the clip; the caller cuts off the excess.
    """
    hop = max(1, window.video // 2)
    # Windows start at whole latents of both modalities, which coincide every ``denominator`` frames.
    aligned = hop - hop % latents_per_frame.denominator
    hop = aligned or hop
    count = 1 + max(0, -(-(frames - window.video) // hop))
    return [Window(AV(audio=round(k * hop * latents_per_frame), video=k * hop), window) for k in range(count)]


def plan_causal_windows(latents: int, window: AV[int], audio_per_video: Fraction) -> list[Window]:
    """Windows for a video base with a causal autoencoder, whose first latent is a single frame.

    The network takes the first latent of any window for a single frame. In all windows but the first it is
    therefore context only: the last frame of the latent there is the first frame of the window.

    Args:
        latents: length of the clip in video latents.
        window: length of a window.
        audio_per_video: audio latents per video latent.

    Returns:
        One or more windows; the last one may extend beyond the clip. An audio window starts at the audio
        latent nearest to the end of the context latent.
    """
    hop = max(1, (window.video - 1) // 2)
    count = 1 + max(0, -(-(latents - window.video) // hop))
    return [
        Window(AV(audio=round(k * hop * audio_per_video), video=k * hop), window, head=min(k, 1))
        for k in range(count)
    ]


def whole(windows: Sequence[Window]) -> AV[int]:
    """The length of both modalities that ``windows`` cover together, in latents."""
    return windows[-1].end


def window_seed(seed: int, number: int) -> int:
    """Seed of the noise of window ``number``; the first window uses the seed of the clip."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint32)[0]) if number else seed


def carried(latents: Tensor, by: int) -> Given:
    """The known start of the next window: the overlap with this one.

    Args:
        latents: clean latents of one modality in this window.
        by: distance between the starts of the two windows, in latents.
    """
    held = torch.cat([latents[:, :, by:], torch.zeros_like(latents[:, :, :by])], dim=2)
    return Given(held, torch.arange(latents.shape[2]) < latents.shape[2] - by)


def windowed(windows: Sequence[Window], predicts: Sequence[Predict]) -> Predict:
    """Combine the predictions of windows into one ``predict`` function for the entire clip.

    Windows are computed one after the other, so memory does not grow with their number.

    Args:
        windows: from :func:`plan_windows`.
        predicts: one prediction per window, for example with different texts.
    """
    if len(windows) == 1:
        return predicts[0]

    def predict(latents: AV[Tensor], levels: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        total: AV[Tensor] = latents.map(torch.zeros_like)
        weight: AV[Tensor] = latents.map(lambda x: x.new_zeros([1, 1, x.shape[2], *[1] * (x.dim() - 3)]))
        for window, inner in zip(windows, predicts, strict=True):
            output = inner(window.cut(latents), levels, None if x0_hat is None else window.cut(x0_hat))
            fade: AV[Tensor] = window.cut(weight).map(_fade)
            fade.video[:, :, : window.head] = 0
            window.cut(total).map(lambda t, o, f: t.add_(f * o), output, fade)
            window.cut(weight).map(lambda w, f: w.add_(f), fade)
        return total.map(lambda t, w: t / w, weight)

    return predict


def _fade(weight: Tensor) -> Tensor:
    """Triangular weights of a window along time, above 0 everywhere."""
    length = weight.shape[2]
    ramp = torch.arange(1, length + 1, device=weight.device, dtype=weight.dtype)
    return torch.minimum(ramp, ramp.flip(0)).view_as(weight)
