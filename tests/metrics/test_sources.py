"""Films with sounds beside them, event lists and captions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kinetophone.errors import MediaError, RequestError
from kinetophone.media import Clip
from kinetophone.metrics.evaluate import detect_one
from kinetophone.metrics.sources import (
    captions_of,
    find_clips,
    find_truth,
    read,
    read_captions,
    read_truth,
    truth_of,
    unmatched,
    unread_files,
)

MakeClip = Callable[..., Clip]


def test_a_sound_beside_a_film_is_its_sound(tmp_path: Path, make_struck_clip: MakeClip) -> None:
    video_file, other = make_struck_clip([1.0]), make_struck_clip([2.0, 3.0])
    video_file.save(tmp_path / "a.mp4")
    other.save(tmp_path / "a.wav")
    video_file.save(tmp_path / "b.mp4")
    video_file.save(tmp_path / "lone.wav")
    assert [path.name for path in find_clips(tmp_path)] == ["a.mp4", "b.mp4", "lone.wav"]
    heard = read(tmp_path / "a.mp4")
    assert heard.video.shape == video_file.video.shape
    assert np.abs(heard.audio - other.audio).max() < 1e-3
    lone = detect_one(tmp_path / "lone.wav")
    assert "has no video stream" in lone.reason  # type: ignore[union-attr]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_every_container_is_read(tmp_path: Path, make_struck_clip: MakeClip, suffix: str) -> None:
    import av

    clip = make_struck_clip([1.0, 2.5], size=64)
    path = tmp_path / f"clip{suffix}"
    video_codec, audio_codec = ("libvpx-vp9", "libopus") if suffix == ".webm" else ("libx264", "aac")
    with av.open(str(path), "w") as file:
        picture = file.add_stream(video_codec, rate=8)
        picture.width = picture.height = 64
        picture.pix_fmt = "yuv420p"
        sound = file.add_stream(audio_codec, rate=48_000, layout="mono")
        for image in clip.video:
            file.mux(picture.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(picture.encode())
        frame = av.AudioFrame.from_ndarray(np.repeat(clip.audio, 3)[None], format="fltp", layout="mono")
        frame.sample_rate = 48_000
        fifo = av.AudioFifo()
        fifo.write(frame)
        while (piece := fifo.read(sound.codec_context.frame_size or 960, partial=True)) is not None:
            for packet in av.AudioResampler(format=sound.codec_context.format, rate=48_000).resample(piece):
                file.mux(sound.encode(packet))
        file.mux(sound.encode())
    found = detect_one(path)
    assert found.onsets_s == pytest.approx([1.0, 2.5], abs=0.05)  # type: ignore[union-attr]
    assert found.strikes_s == pytest.approx([1.0, 2.5], abs=0.01)  # type: ignore[union-attr]


def test_event_lists_of_greatest_hits(tmp_path: Path) -> None:
    (tmp_path / "2015-02-16-16-49-06_times.txt").write_text(
        "0.906 wood hit static\n\n2.5 None scratch None\n"
    )
    assert find_truth(tmp_path) == tmp_path
    truth = read_truth(tmp_path)
    assert truth == {"2015-02-16-16-49-06": [0.906, 2.5]}
    for name in ("2015-02-16-16-49-06.mp4", "2015-02-16-16-49-06_denoised.mp4"):
        assert truth_of(name, truth) == [0.906, 2.5]
    assert truth_of("elsewhere.mp4", truth) is None
    (tmp_path / "events.json").write_text('{"clips": {}}')
    assert find_truth(tmp_path) == tmp_path / "events.json"


def test_bad_event_lists(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="has no event list; looked for"):
        read_truth(tmp_path)
    (tmp_path / "a_times.txt").write_text("soon\n")
    with pytest.raises(MediaError, match=r"a_times\.txt' is not an event list .*starts with seconds"):
        read_truth(tmp_path)
    assert find_truth(tmp_path / "nowhere") is None


def test_captions(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text('file,caption\n0.mp4,"a bowl, struck"\n')
    assert read_captions(path) == {"0.mp4": "a bowl, struck"}
    path.write_text("name,text\n")
    with pytest.raises(RequestError, match="has the columns name, text; it needs file and caption"):
        read_captions(path)


def test_a_wave_file_in_capitals_is_the_sound_of_the_film(
    tmp_path: Path, make_struck_clip: Callable[..., Clip]
) -> None:
    make_struck_clip([1.0], size=32).save(tmp_path / "a.mp4")
    Clip(np.zeros((16, 8, 8, 3), np.uint8), 8, np.zeros(32_000, np.float32)).save(tmp_path / "a.wav")
    (tmp_path / "a.wav").rename(tmp_path / "a.WAV")
    assert [path.name for path in find_clips(tmp_path)] == ["a.mp4"]
    assert np.abs(read(tmp_path / "a.mp4").audio).max() == 0


def test_a_wave_file_of_two_films_is_refused(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mov", "b.mp4"):
        (tmp_path / name).touch()
    assert len(find_clips(tmp_path)) == 3
    (tmp_path / "a.wav").touch()
    with pytest.raises(MediaError, match=r"a\.wav' may be the audio of 'a\.mov' or 'a\.mp4'"):
        find_clips(tmp_path)


def test_captions_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text("file,caption\na.mp4\nb.mp4,a drum\nb.mp4,a bowl\n")
    with pytest.raises(RequestError) as caught:
        read_captions(path)
    first, second = caught.value.problems
    assert "line 2, has no caption; fill it in" in first
    assert "has two captions for 'b.mp4', in lines 3 and 4" in second
    said = {"a.mov": "a drum", "b.mp4": "a bowl", "c.mp4": "a bell"}
    assert captions_of(["a.mp4", "b.mp4", "d.mp4"], said) == {"a.mp4": "a drum", "b.mp4": "a bowl"}
    assert unmatched(["a.mp4", "d.mp4"], said) == [
        "1 of 2 clips have no caption: d.mp4",
        "2 captions belong to no clip here: b.mp4, c.mp4",
    ]


def test_files_of_other_kinds_are_named(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.wav", "b.DOCX", "c.iso", "report.json", ".hidden"):
        (tmp_path / name).touch()
    assert unread_files(tmp_path) == ["b.DOCX", "c.iso"]


def test_a_table_of_prompts_is_a_table_of_captions(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    path.write_text("prompt,seed,seconds,file\na drum,7,,a.mp4\na bowl,8,5.0,b.mp4\n")
    assert read_captions(path) == {"a.mp4": "a drum", "b.mp4": "a bowl"}
