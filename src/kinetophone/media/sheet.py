"""Contact sheets: an overview of a clip with its frames above its audio."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kinetophone.errors import MediaError
from kinetophone.files import replacing
from kinetophone.media.librosa_loading import load_librosa
from kinetophone.media.onsets import onsets_from_audio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kinetophone.media.clip import Clip

_COLUMNS = 16  # frames in a row; a 4 s clip at 8 fps fills two
_MAX_FRAMES = 64  # longer clips are subsampled evenly
_WIDTH_IN, _DPI = 16.0, 100
_AUDIO_IN = 5.0  # height of waveform and spectrogram
_FRAME_IN = 3.0  # maximum height of a frame
_MARK = "#d62728"


def write_sheet(
    clip: Clip,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    onsets_s: Sequence[float] | None = None,
) -> Path:
    """Write the clip's frames in a grid, each with its time, above the waveform and a log-mel spectrogram.

    Frames that contain a marked time get a border in the colour of the marks.

    Args:
        clip: The clip.
        path: File to write, ``.png``.
        title: A line above the frames, such as the prompt.
        onsets_s: Times to mark, in seconds; the detected audio onsets if not given.

    Returns:
        The path written.

    Raises:
        MediaError: The suffix is not ``.png``.
        OSError: The file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise MediaError(f"'{path}' is not a .png; a contact sheet is written as .png")
    if onsets_s is None:
        onsets_s = onsets_from_audio(clip.mono, clip.sample_rate).tolist()
    figure = _draw(clip, title, onsets_s)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=_DPI)
    return path


def _draw(clip: Clip, title: str | None, onsets_s: Sequence[float]) -> Figure:
    # The object-oriented interface: pyplot would keep every figure alive and select a display backend.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = np.linspace(0, len(clip.video) - 1, min(len(clip.video), _MAX_FRAMES)).round().astype(int)
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    height, width = clip.video.shape[1:3]
    frames_in = min(_WIDTH_IN / columns * height / width, _FRAME_IN) * rows
    title_in = 0.4 if title else 0.1
    whole_in = title_in + frames_in + _AUDIO_IN
    figure = Figure(figsize=(_WIDTH_IN, whole_in))
    FigureCanvasAgg(figure)
    if title:
        figure.text(0.5, 1 - 0.5 * title_in / whole_in, title, ha="center", va="center", fontsize=12)
    picture = figure.add_axes((0.005, _AUDIO_IN / whole_in, 0.99, frames_in / whole_in))
    _draw_frames(picture, clip, shown, columns, onsets_s)
    wave = figure.add_axes((0.05, (_AUDIO_IN - 1.5) / whole_in, 0.94, 1.3 / whole_in))
    mel = figure.add_axes((0.05, 0.5 / whole_in, 0.94, (_AUDIO_IN - 2.1) / whole_in), sharex=wave)
    _draw_audio(wave, mel, clip, onsets_s)
    return figure


def _draw_frames(axes: Axes, clip: Clip, shown: np.ndarray, columns: int, onsets_s: Sequence[float]) -> None:
    """Draw all frames as one image, which is ten times faster than one set of axes per frame."""
    from matplotlib.patches import Rectangle

    height, width = clip.video.shape[1:3]
    gap = max(1, width // 32)
    rows = math.ceil(len(shown) / columns)
    mosaic = np.full((rows * (height + gap), columns * (width + gap), 3), 255, np.uint8)
    starts_s = [clip.time.frame_time_s(int(index)) for index in shown]
    # If frames were subsampled, mark the last shown frame that starts before the onset.
    marked = set(np.searchsorted(starts_s, np.asarray(onsets_s) + 1e-9, side="right") - 1)
    for place, index in enumerate(shown):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        mosaic[top : top + height, left : left + width] = clip.video[index]
        label: dict[str, Any] = {"color": "white", "fontsize": 7, "va": "top", "backgroundcolor": "#00000080"}
        axes.text(left + gap, top + gap, f"{starts_s[place]:.2f}", **label)
        if place in marked:
            corner = (left - 0.5, top - 0.5)
            axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=_MARK, linewidth=2.5))
    axes.imshow(mosaic)
    axes.set_axis_off()


def _draw_audio(wave: Axes, mel: Axes, clip: Clip, onsets_s: Sequence[float]) -> None:
    times = np.arange(len(clip.audio)) / clip.sample_rate
    wave.plot(times, clip.mono, linewidth=0.5, color="#1f77b4")
    wave.tick_params(labelbottom=False)
    wave.set(ylim=(-1.05, 1.05), ylabel="waveform", xlim=(0, clip.duration_s))
    levels_db, top_hz = log_mel_db(clip.mono, clip.sample_rate)
    mel.imshow(
        levels_db,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=-80,
        vmax=0,
        extent=(0, clip.duration_s, 0, len(levels_db)),
    )
    mel.set(ylabel=f"mel bins, 0 to {top_hz / 1000:g} kHz", xlabel="seconds", yticks=[])
    for onset in onsets_s:
        for axes in (wave, mel):
            axes.axvline(onset, color=_MARK, linewidth=1, alpha=0.8)


def log_mel_db(audio: np.ndarray, sample_rate: int, *, bins: int = 80) -> tuple[np.ndarray, float]:
    """Mel spectrogram for display, in dB relative to its maximum.

    Args:
        audio: Waveform, float32 (N,).
        sample_rate: Sample rate in Hz.
        bins: Number of mel bins.

    Returns:
        Levels (bins, frames) in [-80, 0], and the upper edge of the highest bin in Hz. Silence is -80
        everywhere.
    """
    librosa = load_librosa()

    window = 1024
    padded = np.pad(audio, (0, max(0, window - len(audio))))
    power = librosa.feature.melspectrogram(
        y=padded, sr=sample_rate, n_fft=window, hop_length=max(64, sample_rate // 100), n_mels=bins
    )
    top = max(float(power.max()), 1e-10)
    return 10.0 * np.log10(np.clip(power / top, 1e-8, None)), sample_rate / 2
