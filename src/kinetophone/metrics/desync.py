"""DeSync: by how much a network that was trained to tell it thinks sound and picture are apart.

The network is Synchformer (Iashin et al. 2024), the measure that of MMAudio (Cheng et al. 2025): the first
and the last 4.8 s of a clip, the likeliest of 21 offsets from -2 to 2 s for each, the mean of their sizes.
Nothing of it ships: the user names a file, as :mod:`kinetophone.metrics.networks.load` has it.

The network is called with ``(frames, sound)``: float32 (1, 14, 16, 3, 224, 224) in [-1, 1], segments of 16
frames at 25 a second, one every 8 frames; and float32 (1, 14, 10240), segments of 0.64 s at 16 kHz, one every
0.32 s. It returns logits (1, 21). The log-mel spectrogram of the sound is made by the network.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from kinetophone.metrics.networks.load import load

if TYPE_CHECKING:
    from kinetophone.media.clip import Clip

FPS, RATE = 25, 16_000
SEGMENTS, SEGMENT_FRAMES, SEGMENT_SAMPLES = 14, 16, 10_240  # half overlapping
CROP_FRAMES = (SEGMENTS + 1) * SEGMENT_FRAMES // 2
CROP_SAMPLES = (SEGMENTS + 1) * SEGMENT_SAMPLES // 2
CROP_S = CROP_FRAMES / FPS
OFFSETS_S = np.linspace(-2.0, 2.0, 21)

# What a network that guesses evenly scores: the mean size of an offset.
CHANCE_S = float(np.abs(OFFSETS_S).mean())

_SIDE, _CROPPED = 256, 224


def desync(clip: Clip, path: str, allow_torchscript: bool = False) -> np.ndarray:
    """The offset found in the first and in the last 4.8 s of a clip.

    A shorter clip is a single crop, its last frame held and its sound silent from where it ends: the network
    was not trained for that, so the report counts such clips.

    Args:
        clip: The clip.
        path: The network's file, as the module's docstring has it.
        allow_torchscript: Load it, though it can run code.

    Returns:
        Seconds, float32 (crops, 1); the sign is the network's.
    """
    import torch

    from kinetophone.media.read import resample_audio, resample_frames

    frames = resample_frames(clip.video, Fraction(clip.fps), Fraction(FPS), (_SIDE, _SIDE))
    sound = resample_audio(clip.audio, clip.sample_rate, RATE)
    frames = np.pad(frames, [(0, max(0, CROP_FRAMES - len(frames))), *[(0, 0)] * 3], mode="edge")
    sound = np.pad(sound, (0, max(0, round(len(frames) * RATE / FPS) - len(sound))))
    edge = (_SIDE - _CROPPED) // 2
    frames = frames[:, edge : edge + _CROPPED, edge : edge + _CROPPED]
    offsets = []
    for first in sorted({0, len(frames) - CROP_FRAMES}):
        start = first * RATE // FPS
        seen = torch.from_numpy(frames[first : first + CROP_FRAMES]).permute(0, 3, 1, 2).div(127.5).sub(1)
        heard = torch.from_numpy(np.ascontiguousarray(sound[start : start + CROP_SAMPLES]))
        with torch.no_grad():
            logits = load(path, "synchformer", allow_torchscript=allow_torchscript)(
                seen.unfold(0, SEGMENT_FRAMES, SEGMENT_FRAMES // 2).permute(0, 4, 1, 2, 3)[None],
                heard.unfold(0, SEGMENT_SAMPLES, SEGMENT_SAMPLES // 2)[None],
            )
        offsets.append(OFFSETS_S[int(logits[0].argmax())])
    return np.array(offsets, np.float32)[:, None]
