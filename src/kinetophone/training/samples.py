"""Images and WAV files that stages write while training, for inspection by eye and ear."""

from __future__ import annotations

import wave
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from kinetophone.media.clip import as_channels
from kinetophone.media.mel import HOP, SAMPLE_RATE, log_mel


def save_strips(frames: Tensor, path: Path, scale: int = 1) -> None:
    """Write a grid of frames (rows, columns, 3, H, W) in [-1, 1] as one PNG, enlarged ``scale`` times."""
    rows, columns, _, height, width = frames.shape
    picture = frames.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, 3)
    pixels = ((picture.float().clamp(-1, 1) + 1) * 127.5).byte().cpu().numpy()[..., ::-1]
    pixels = cv2.resize(np.ascontiguousarray(pixels), None, fx=scale, fy=scale)
    cv2.imwrite(str(path), pixels)


def mel_image(mel: Tensor) -> np.ndarray:
    """Draw log-mels (B, frames, 64) as BGR uint8 (B * 64, frames, 3), low frequencies at the bottom."""
    rows = mel.transpose(1, 2).flip(1).flatten(0, 1)
    return cv2.applyColorMap(
        rows.add(11.5).mul(255 / 14).clamp(0, 255).byte().cpu().numpy(), cv2.COLORMAP_MAGMA
    )


def spectrogram(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Draw the log-mel of a waveform as BGR uint8 (64, frames, 3): the mean of its channels, below 8 kHz."""
    waveform = as_channels(waveform, 1)
    if sample_rate != SAMPLE_RATE:
        from kinetophone.media.read import resample_audio

        waveform = resample_audio(waveform, sample_rate, SAMPLE_RATE)
    whole = waveform[: len(waveform) - len(waveform) % HOP]
    return mel_image(log_mel(torch.from_numpy(whole)[None]))


def save_wav(waveform: Tensor | np.ndarray, path: Path, sample_rate: int = SAMPLE_RATE) -> None:
    """Write samples (N,) or (N, channels) in [-1, 1] as a 16-bit WAV file."""
    samples = np.clip(np.asarray(waveform, np.float32), -1, 1)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
