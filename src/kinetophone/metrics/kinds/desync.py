"""DeSync: the audio-video offset predicted by a network that was trained for this.

The network is Synchformer (Iashin et al. 2024) and the metric is that of MMAudio (Cheng et al. 2025). For the
first and the last 4.8 s of a clip, take the most likely of 21 offsets from -2 to 2 s, and average their
absolute values. The network does not ship with this package; the user names a file, see
:mod:`kinetophone.metrics.networks.load`.

The network is called with ``(frames, sound)``: float32 (1, 14, 16, 3, 224, 224) in [-1, 1], segments of 16
frames at 25 fps, one every 8 frames; and float32 (1, 14, 10240), segments of 0.64 s at 16 kHz, one every
0.32 s. It returns logits (1, 21), and computes the log-mel spectrogram itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from kinetophone.metrics.registry import Consent, Metric, Sample, Scores

if TYPE_CHECKING:
    import numpy as np

    from kinetophone.media.clip import Clip
    from kinetophone.metrics.control import Interval

FPS, RATE = 25, 16_000
SEGMENTS, SEGMENT_FRAMES, SEGMENT_SAMPLES = 14, 16, 10_240  # segments overlap by half
CROP_FRAMES = (SEGMENTS + 1) * SEGMENT_FRAMES // 2
CROP_SAMPLES = (SEGMENTS + 1) * SEGMENT_SAMPLES // 2
CROP_S = CROP_FRAMES / FPS
OFFSETS_S = tuple(round(0.2 * k, 1) for k in range(-10, 11))

# Chance level, the score of uniform guesses: the mean absolute offset.
CHANCE_S = sum(map(abs, OFFSETS_S)) / len(OFFSETS_S)

_SIDE, _CROPPED = 256, 224


def desync(clip: Clip, path: str, allow_torchscript: bool = False) -> np.ndarray:
    """Predict the audio-video offset in the first and in the last 4.8 s of a clip.

    A shorter clip is a single crop, padded by repeating the last frame and with silence. The network was not
    trained for that, so the report counts such clips.

    Args:
        clip: The clip.
        path: The network's file, see the module's docstring.
        allow_torchscript: Allow TorchScript, which can run code.

    Returns:
        Offsets in seconds, float32 (crops, 1), with the network's sign.
    """
    import numpy as np
    import torch

    from kinetophone.media.read import resample_audio, resample_frames
    from kinetophone.metrics.networks.load import load

    frames = resample_frames(clip.video, clip.time.fps, Fraction(FPS), (_SIDE, _SIDE))
    sound = resample_audio(clip.mono, clip.sample_rate, RATE)
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


@dataclass(frozen=True, slots=True)
class Desync:
    """Mean absolute and mean signed audio-video offset of a set of clips.

    Attributes:
        value: Mean absolute offset in seconds, as published.
        interval: 95 % bootstrap confidence interval of it over clips.
        signed: Mean offset in seconds, with the network's sign. It shows a lag that all clips share.
        signed_interval: 95 % bootstrap confidence interval of it over clips.
        n: Number of clips.
        short: Number of clips that are shorter than the network's 4.8 s.
        chance: Chance level, the score of uniform guesses. Shuffled pairs are not used, because the network
            would have to run again for each of them.
    """

    value: float
    interval: Interval
    signed: float
    signed_interval: Interval
    n: int
    short: int
    chance: float = CHANCE_S


def _load(source: str, consent: Consent, texts: bool) -> Any:
    from kinetophone.metrics.networks.load import load

    return load(source, "synchformer", allow_torchscript=consent.torchscript)


def _extract(clip: Clip, source: str, consent: Consent) -> dict[str, np.ndarray]:
    return {"desync": desync(clip, source, consent.torchscript)}


def mean_desync(sample: Sample) -> Desync | None:
    """Mean offsets over the crops of each clip, then over clips; None if there are none."""
    import numpy as np

    from kinetophone.metrics.control import bootstrap_interval

    clips = sample.clips
    offsets = [clip.features["desync"] for clip in clips if "desync" in clip.features]
    if not offsets:
        return None
    sizes = [float(np.abs(of_clip).mean()) for of_clip in offsets]
    signed = [float(of_clip.mean()) for of_clip in offsets]
    short = sum(len(clip.flow) / clip.fps < CROP_S for clip in clips)
    return Desync(
        value=float(np.mean(sizes)),
        interval=bootstrap_interval(sizes, sample.seed),
        signed=float(np.mean(signed)),
        signed_interval=bootstrap_interval(signed, sample.seed),
        n=len(sizes),
        short=short,
    )


METRIC = Metric(
    name="desync",
    source="synchformer",
    source_help="Synchformer for desync, converted or TorchScript.",
    load=_load,
    extract=_extract,
    score=lambda sample: Scores(desync=mean_desync(sample)),
)
