"""What may be uploaded, and how what may not is refused: by its name, never by its path."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinetophone.app.uploads import Limits, read_upload
from kinetophone.errors import MediaError
from kinetophone.media import Clip

MakeClip = Callable[..., Clip]


def still(frames: int, height: int = 16, width: int = 16, fps: int = 1) -> Clip:
    samples = round(Fraction(frames, fps) * 8000)
    return Clip(np.zeros((frames, height, width, 3), np.uint8), fps, np.zeros(samples, np.float32), 8000)


def refused(path: Path, kind: str, limits: Limits | None = None) -> str:
    with pytest.raises(MediaError) as caught:
        read_upload(path, kind, limits or Limits())
    assert str(path.parent) not in str(caught.value)
    return str(caught.value)


def test_each_kind_is_read(make_struck_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_struck_clip([1.0], size=64)
    video_file, sound = clip.save(tmp_path / "a.mp4"), clip.save(tmp_path / "a.wav")
    assert read_upload(video_file, "clip", Limits()).time == clip.time
    assert read_upload(video_file, "video", Limits()).frames.shape == clip.video.shape
    assert len(read_upload(sound, "audio", Limits()).waveform) == len(clip.audio)
    assert len(read_upload(video_file, "audio", Limits()).waveform) == len(clip.audio)


def test_a_long_file_is_refused_with_the_limit(tmp_path: Path) -> None:
    video_file = still(180).save(tmp_path / "long.mp4")
    assert refused(video_file, "video") == "'long.mp4' lasts 180 s; this server allows at most 30 s"
    assert "lasts 180 s; this server allows at most 30 s" in refused(video_file, "clip")
    assert "lasts 180 s" in refused(still(180).save(tmp_path / "long.wav"), "audio")
    # A picture that is short does not hide a sound that is long, nor the other way round.
    assert len(read_upload(video_file, "video", Limits(longest_s=200)).frames) == 180


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"this is a letter, not a film", "cannot be read as media"),
    ],
)
def test_what_is_no_media_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "bad.mp4"
    file.write_bytes(content)
    assert message in refused(file, "video")


def test_a_track_that_is_missing_is_named(make_struck_clip: MakeClip, tmp_path: Path) -> None:
    sound = make_struck_clip([1.0]).save(tmp_path / "a.wav")
    assert "has no video stream" in refused(sound, "video")
    gif = make_struck_clip([1.0], size=64).save(tmp_path / "a.gif")
    assert "has no audio stream" in refused(gif, "audio")


def test_large_files_large_pictures_and_high_rates(tmp_path: Path) -> None:
    video_file = still(4, height=360, width=1280, fps=8).save(tmp_path / "wide.mp4")
    assert read_upload(video_file, "video", Limits()).frames.shape == (4, 136, 480, 3)
    assert "larger than 0 MB" in refused(video_file, "video", Limits(upload_mb=0))
    fast = still(200, fps=100).save(tmp_path / "fast.mp4")
    assert "has 200 frames; this server allows at most 180" in refused(fast, "video", Limits(longest_s=3))
    picture = read_upload(fast, "video", Limits())
    assert (picture.fps, len(picture.frames)) == (60, 120)


def test_a_photograph_is_no_sound(tmp_path: Path) -> None:
    file = tmp_path / "photo.avif"
    Image.new("RGB", (64, 48)).save(file)
    assert "cannot be read as media" in refused(file, "audio") or "has no audio stream" in refused(
        file, "audio"
    )
