"""Videos of every kind become clips of one kind or are rejected with a reason; then latents, a training."""

import json
import shutil
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from kinetophone.cli import app
from kinetophone.data import encode as encoding
from kinetophone.data.prepare import Cut, prepare
from kinetophone.data.shards import read
from kinetophone.data.sources import find_sources
from kinetophone.errors import RequestError
from kinetophone.request import BUNDLES
from kinetophone.training import run

CUT = Cut(fps=8, seconds=1, size=64)


def write_video(
    path, seconds=1.25, size=(64, 64), fps=8, rate=16_000, sound="tone", layout="mono", times=None
):
    """A picture whose left quarter is red, and a tone, silence or no sound; ``times`` are the frames' own."""
    width, height = size
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=fps)
        video.width, video.height, video.pix_fmt = (
            width,
            height,
            "yuv420p" if not (width % 2 or height % 2) else "yuv444p",
        )
        video.codec_context.time_base = Fraction(1, 1000)
        frames = np.zeros((height, width, 3), np.uint8)
        frames[:, : width // 4] = (255, 0, 0)
        audio = None if sound is None else file.add_stream("aac", rate=rate, layout=layout)
        for i in range(round(seconds * fps) if times is None else len(times)):
            frame = av.VideoFrame.from_ndarray(frames, format="rgb24")
            frame.pts = round(1000 * (i / fps if times is None else times[i]))
            frame.time_base = Fraction(1, 1000)
            file.mux(video.encode(frame))
        file.mux(video.encode())
        if audio is not None:
            t = np.arange(round(seconds * rate)) / rate
            wave = 0.3 * np.sin(2 * np.pi * 440 * t) * (sound == "tone")
            samples = np.tile(wave.astype(np.float32), (2 if layout == "stereo" else 1, 1))
            chunk = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
            chunk.sample_rate = rate
            file.mux(audio.encode(chunk))
            file.mux(audio.encode())


def rotate(path):
    """Say in an .mp4 that it is to be shown turned to the right, as a phone held upright does."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44
    content[at : at + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 0x40000000)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    write_video(root / "fine.mp4", seconds=2.5)
    write_video(root / "stereo_44k.mp4", rate=44_100, layout="stereo")
    write_video(root / "odd_size.mp4", size=(71, 53))
    write_video(root / "variable_rate.mp4", times=[0, 0.03, 0.1, 0.5, 0.55, 0.9, 1.2], seconds=1.25)
    write_video(root / "turned.mp4", size=(96, 64))
    rotate(root / "turned.mp4")
    write_video(root / "no_sound.mp4", sound=None)
    write_video(root / "silent.mp4", sound="silence")
    write_video(root / "short.mp4", seconds=0.5)
    (root / "empty.mp4").touch()
    (root / "text.mp4").write_text("this is no video")
    whole = (root / "fine.mp4").read_bytes()
    (root / "cut_off.mp4").write_bytes(whole[: len(whole) // 2])
    return root


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "clips"
    rows = prepare(find_sources(folder, caption="a tone"), out, CUT, workers=1)
    return out, {row["source"]: row for row in rows}


def clips_of(out):
    return {key: m for shard in sorted(out.glob("*.tar")) for key, m in read(shard)}


def test_what_can_be_used_is_cut_and_the_rest_has_a_reason(prepared):
    out, rows = prepared
    counts = {name: len(row["clips"]) for name, row in rows.items() if row["clips"]}
    assert counts == {
        "fine.mp4": 2, "stereo_44k.mp4": 1, "odd_size.mp4": 1, "variable_rate.mp4": 1, "turned.mp4": 1,
    }  # fmt: skip
    reasons = {name: row["reason"] for name, row in rows.items() if not row["clips"]}
    for name, words in {
        "no_sound.mp4": "no audio stream",
        "silent.mp4": "silent",
        "short.mp4": "0.50 s long, shorter than a clip of 1 s",
        "empty.mp4": "empty (0 bytes)",
        "text.mp4": "corrupt or not media",
        "cut_off.mp4": "corrupt or not media",
    }.items():
        assert words in reasons.pop(name)
    assert not reasons
    lines = (out / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["source"] for line in lines] == sorted(rows)


def test_every_clip_has_the_length_and_the_size_that_were_asked_for(prepared):
    out, rows = prepared
    clips = clips_of(out)
    assert set(clips) == {key for row in rows.values() for key in row["clips"]}
    for members in clips.values():
        assert encoding._frames(members["jpg"], CUT.size).shape == (8, 64, 64, 3)
        sound = encoding._samples(members["wav"])
        assert len(sound) == 16_000
        assert 0.1 < np.sqrt(np.mean(sound**2)) < 0.3
        assert json.loads(members["json"])["caption"] == "a tone"


def test_a_turned_video_is_upright(prepared):
    out, rows = prepared
    frames = encoding._frames(clips_of(out)[rows["turned.mp4"]["clips"][0]]["jpg"], CUT.size)
    assert frames[0, 2, 32, 0] > 150  # red was on the left and is at the top now
    assert frames[0, 60, 2, 0] < 100


def test_a_run_goes_on_where_it_stopped_and_refuses_other_settings(folder, prepared, tmp_path):
    out, rows = prepared
    again = tmp_path / "again"
    shutil.copytree(out, again)
    (again / "parts" / "00000.jsonl").unlink()
    (again / "clips-00000.tar").write_bytes(b"half")
    sources = find_sources(folder, caption="a tone")
    assert {row["source"]: row for row in prepare(sources, again, CUT, workers=1)} == rows
    assert (again / "clips-00000.tar").read_bytes() == (out / "clips-00000.tar").read_bytes()
    with pytest.raises(RequestError, match="other settings or sources"):
        prepare(sources, out, Cut(fps=4, seconds=1, size=64))


def test_captions_come_from_a_table_a_file_beside_or_nowhere(tmp_path):
    for name in ("a.mp4", "b.mp4", "c.mov"):
        (tmp_path / name).touch()
    (tmp_path / "b.txt").write_text("from beside\n")
    (tmp_path / "t.csv").write_text('file,caption\na.mp4,"one, two"\n')
    found = {s.name: s.caption for s in find_sources(tmp_path, captions=tmp_path / "t.csv")}
    assert found == {"a.mp4": "one, two", "b.mp4": "from beside", "c.mov": None}


def test_known_data_sets(tmp_path):
    hits, land, sound = (tmp_path / name for name in ("hits", "land", "sound"))
    for path in (
        hits / "x_denoised_thumb.mp4", hits / "x_denoised.wav", land / "fire_crackling" / "1.mp4",
        sound / "abc_000030.mp4", sound / "other_000001.mp4",
    ):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (hits / "x_times.txt").write_text("1.5 wood hit static\n2.25 plastic-bag hit deform\n3 wood hit static\n")
    (sound / "vggsound.csv").write_text('abc,30,"dog barking",train\nmissing,0,cat,test\n')
    one = find_sources(hits, "greatesthits")[0]
    assert (one.caption, one.events_s) == ("a drumstick hits wood", (1.5, 2.25, 3.0))
    assert one.sound == hits / "x_denoised.wav"
    assert find_sources(land, "landscape")[0].caption == "fire crackling"
    found = find_sources(sound, "vggsound", captions=sound / "vggsound.csv")
    assert [(s.name, s.caption) for s in found] == [("abc_000030.mp4", "dog barking")]
    with pytest.raises(RequestError, match="needs its table"):
        find_sources(sound, "vggsound")


def test_from_videos_to_a_trained_coupling(tmp_path):
    """The commands, on the shipped bases: clips of 4 s at 64 px."""
    videos = tmp_path / "videos"
    videos.mkdir()
    write_video(videos / "a.mp4", seconds=8.5)
    (videos / "a.txt").write_text("a drumstick hits a drum")
    shutil.copytree(BUNDLES / "hits", tmp_path / "bundle")
    clips, latents = tmp_path / "clips", tmp_path / "latents"
    for arguments in (
        ["prepare", videos, clips, "--size", 64, "--workers", 1],
        ["encode", clips, latents],
    ):
        done = CliRunner().invoke(app, ["data", *map(str, arguments)])
        assert done.exit_code == 0, done.output
    recipe = {
        "stage": "coupling",
        "continued": True,
        "data": {"source": str(latents)},
        "bundle": str(tmp_path / "bundle"),
        "loop": {"steps": 2, "batch_size": 2, "lr": 1e-5, "sample_every": 0, "threads": 1},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    out = run(tmp_path / "r.yaml", tmp_path / "run")
    assert json.loads((out / "log.jsonl").read_text().splitlines()[-1])["loss"] < 3
    described = json.loads((tmp_path / "bundle" / "kinetophone.json").read_text())
    assert (described["fps"], described["frames"], described["size"]) == (8, 32, 64)
    spoilt = json.loads((latents / "encoded.json").read_text()) | {"made_by": {}}
    (latents / "encoded.json").write_text(json.dumps(spoilt))
    with pytest.raises(RequestError, match="encoded with other bases"):
        run(tmp_path / "r.yaml", tmp_path / "other")
