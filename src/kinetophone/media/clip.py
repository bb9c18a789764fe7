"""An audio-video clip in memory.

Shapes: T frames, H rows, W columns, 3 colours (red, green, blue); N audio samples, C audio channels.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kinetophone.media.timing import DEFAULT_SAMPLE_RATE, ClipTime, ExactRate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL.Image import Image

    from kinetophone.media.timing import FrameRate

    Frames = NDArray[np.uint8]
    Waveform = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Clip:
    """Video and audio of the same length.

    Attributes:
        video: Frames, uint8 (T, H, W, 3), red-green-blue, T >= 1.
        fps: Frames per second, a float such as ``diffusers.utils.export_to_video`` takes, which keeps the
            exact rate; anything ``as_fps`` takes is converted. ``clip.time.fps`` is the exact ``Fraction``.
        audio: Waveform, float32, finite, in [-1, 1]: mono (N,), or (N, C) with two or more channels. N must
            be ``clip.time.samples``, the length of the video. Use ``fit_audio`` to cut or pad a waveform of
            another length. ``clip.mono`` is (N,) in either case.
        sample_rate: Audio samples per second.
        layout: Layout of several channels, such as "5.1"; the usual one for their number if not given.

    Raises:
        TypeError: An array has the wrong dtype.
        ValueError: An array has the wrong shape, range or length.
    """

    video: Frames
    fps: ExactRate
    audio: Waveform
    sample_rate: int = DEFAULT_SAMPLE_RATE
    layout: str | None = None

    if TYPE_CHECKING:  # the initialiser accepts more types than the field has

        def __init__(
            self,
            video: Frames,
            fps: FrameRate,
            audio: Waveform,
            sample_rate: int = DEFAULT_SAMPLE_RATE,
            layout: str | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "fps", ExactRate(self.fps))
        check_frames(self.video)
        check_waveform(self.audio)
        time = self.time
        object.__setattr__(self, "sample_rate", time.sample_rate)
        if len(self.audio) != time.samples:
            raise ValueError(
                f"the audio has {len(self.audio)} samples, but {time.frames} frames at {self.fps} fps last "
                f"{time.samples} samples at {time.sample_rate} Hz; "
                f"cut or pad it with fit_audio(audio, {time.samples})"
            )

    def __repr__(self) -> str:
        frames, height, width, _ = self.video.shape
        channels = "" if self.audio.ndim == 1 else f" in {self.audio.shape[1]} channels"
        return (
            f"Clip({frames} frames of {width} × {height} at {self.fps:g} fps, "
            f"{self.duration_s:g} s, audio{channels} at {self.sample_rate} Hz)"
        )

    def _repr_html_(self) -> str:
        """HTML for a notebook, with a player for the clip."""
        import base64
        import tempfile
        from pathlib import Path

        with tempfile.TemporaryDirectory() as folder:
            video_file = self.save(Path(folder) / "clip.mp4").read_bytes()
        source = base64.b64encode(video_file).decode("ascii")
        return f'<video controls src="data:video/mp4;base64,{source}"></video>'

    @property
    def frames(self) -> list[Image]:
        """The frames as PIL images, as expected by ``diffusers.utils.export_to_video``."""
        from PIL import Image

        return [Image.fromarray(frame) for frame in self.video]

    @property
    def time(self) -> ClipTime:
        """Frame rate, number of frames, sample rate, and all lengths derived from them."""
        return ClipTime(fps=self.fps, frames=len(self.video), sample_rate=self.sample_rate)

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.time.duration_s

    @property
    def mono(self) -> Waveform:
        """The audio as one channel (N,): the mean of several."""
        return as_channels(self.audio, 1)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the clip to ``path``; the suffix chooses the format.

        ``.mp4`` and ``.mov`` have video and audio (H.264 and AAC), and so has ``.webm`` (VP9 and Opus).
        ``.wav`` has the audio only, ``.gif`` the video only, and ``.png`` is a contact sheet. See
        ``kinetophone.media.write`` for what each format preserves.

        Args:
            path: File to write.

        Returns:
            The path written.

        Raises:
            MediaError: The suffix is unknown, or the format cannot store this clip.
            OSError: The file cannot be written.
        """
        from kinetophone.media.write import save

        return save(self, path)

    def sheet(
        self,
        path: str | os.PathLike[str],
        *,
        title: str | None = None,
        onsets_s: Sequence[float] | None = None,
    ) -> Path:
        """Write a contact sheet (PNG): the frames above the waveform and a log-mel spectrogram.

        Args:
            path: File to write, ``.png``.
            title: A line above the frames, such as the prompt.
            onsets_s: Times to mark, in seconds; the detected audio onsets if not given.

        Returns:
            The path written.
        """
        from kinetophone.media.sheet import write_sheet

        return write_sheet(self, path, title=title, onsets_s=onsets_s)


def fit_audio(audio: Waveform, samples: int) -> Waveform:
    """Cut ``audio`` (N,) or (N, C) to ``samples``, or pad its end with silence."""
    if len(audio) >= samples:
        return audio[:samples]
    return np.pad(audio, [(0, samples - len(audio)), *[(0, 0)] * (audio.ndim - 1)])


def as_channels(audio: Waveform, count: int) -> Waveform:
    """``audio`` (N,) or (N, C) with ``count`` channels: (N,) for one, else (N, count).

    Audio that has as many is unchanged; otherwise each channel is the mean of those there are.
    """
    if (1 if audio.ndim == 1 else audio.shape[1]) == count:
        return audio
    mean = audio if audio.ndim == 1 else np.ascontiguousarray(audio.mean(axis=1))
    return mean if count == 1 else np.repeat(mean[:, None], count, axis=1)


def check_frames(frames: Frames) -> None:
    """Raise unless ``frames`` is a non-empty uint8 array (T, H, W, 3)."""
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
        found = getattr(frames, "dtype", type(frames).__name__)
        raise TypeError(f"the video is {found}; it must be a NumPy array of uint8, 0 to 255")
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"the video has shape {frames.shape}; it must be (frames, height, width, 3), none 0")


def check_waveform(audio: Waveform) -> None:
    """Raise unless ``audio`` is a finite float32 array in [-1, 1], (N,) or (N, C) with C >= 2."""
    if not isinstance(audio, np.ndarray) or audio.dtype != np.float32:
        found = getattr(audio, "dtype", type(audio).__name__)
        raise TypeError(f"the audio is {found}; it must be a NumPy array of float32, -1 to 1")
    if audio.ndim != 1 and (audio.ndim != 2 or audio.shape[1] < 2):
        raise ValueError(
            f"the audio has shape {audio.shape}; it must be (samples,), or (samples, channels) of two or more"
        )
    if not np.isfinite(audio).all():
        first = tuple(np.argwhere(~np.isfinite(audio))[0].tolist())
        raise ValueError(f"the audio is not finite: sample {first[0]} is {audio[first]}")
    peak = float(np.abs(audio).max(initial=0.0))
    if peak > 1.0:
        raise ValueError(f"the audio's peak is {peak:.3f}, above 1; divide by the peak or clip it to [-1, 1]")
