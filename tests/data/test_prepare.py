"""Videos of every kind become clips of one kind or are rejected with a reason; then latents, a training."""

import json
import shutil
import sys

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from kinetophone.bundle.spec import BUNDLES
from kinetophone.cli import app
from kinetophone.data import encode as encoding
from kinetophone.data.prepare import Cut, prepare
from kinetophone.data.shards import read
from kinetophone.data.sources import find_sources
from kinetophone.errors import RequestError
from kinetophone.training import run
from kinetophone.workers import Workers
from videos import REJECTED, USED, write_difficult, write_video

CUT = Cut(fps=8, seconds=1, size=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    write_video(root / "fine.mp4", seconds=2.5)
    write_difficult(root)
    return root


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "clips"
    rows = prepare(find_sources(folder, caption="a tone"), out, CUT, workers=Workers(1))
    return out, {row["source"]: row for row in rows}


def clips_of(out):
    return {key: m for shard in sorted(out.glob("*.tar")) for key, m in read(shard)}


def test_what_can_be_used_is_cut_and_the_rest_has_a_reason(prepared):
    out, rows = prepared
    counts = {name: len(row["clips"]) for name, row in rows.items() if row["clips"]}
    assert counts == {"fine.mp4": 2} | dict.fromkeys(USED, 1)
    reasons = {name: row["reason"] for name, row in rows.items() if not row["clips"]}
    assert reasons.keys() == REJECTED.keys()
    for name, words in REJECTED.items():
        assert words in reasons[name]
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
    (again / "parts" / "clips-00000.tar.json").unlink()
    (again / "clips-00000.tar").write_bytes(b"half")
    sources = find_sources(folder, caption="a tone")
    assert {row["source"]: row for row in prepare(sources, again, CUT, workers=Workers(1))} == rows
    assert (again / "clips-00000.tar").read_bytes() == (out / "clips-00000.tar").read_bytes()
    with pytest.raises(RequestError, match=r"other settings \(fps 8 and not 4\)"):
        prepare(sources, out, Cut(fps=4, seconds=1, size=64))


def made_again(videos, out, caption="a tone"):
    """Names of the shards that a run makes again."""
    before = {path: path.stat().st_mtime_ns for path in out.glob("clips-*.tar")}
    prepare(find_sources(videos, caption=caption), out, CUT, Workers(1))
    return {path.name for path in out.glob("clips-*.tar") if before.get(path) != path.stat().st_mtime_ns}


def test_a_shard_is_made_again_if_and_only_if_what_made_it_has_changed(tmp_path, monkeypatch):
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    preparing = sys.modules["kinetophone.data.prepare"]
    monkeypatch.setattr(preparing, "_SOURCES_PER_SHARD", 1)
    for name in "ac":
        write_video(videos / f"{name}.mp4", size=(32, 32))
    assert made_again(videos, out) == {"clips-00000.tar", "clips-00001.tar"}
    assert made_again(videos, out) == set()
    write_video(videos / "d.mp4", size=(32, 32))  # a new file in an old folder
    assert made_again(videos, out) == {"clips-00002.tar"}
    write_video(videos / "c.mp4", size=(32, 32), seconds=2.25)  # other content under an old name
    assert made_again(videos, out) == {"clips-00001.tar"}
    assert made_again(videos, out, "a bell") == {f"clips-0000{i}.tar" for i in range(3)}
    assert {json.loads(m["json"])["caption"] for m in clips_of(out).values()} == {"a bell"}
    (videos / "d.mp4").unlink()
    assert made_again(videos, out, "a bell") == set()
    assert {path.name for path in out.glob("clips-*")} == {"clips-00000.tar", "clips-00001.tar"}
    monkeypatch.setattr(preparing, "VERSION", preparing.VERSION + 1)
    assert len(made_again(videos, out, "a bell")) == 2


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
    recipe |= {"stage": "connectors", "loop": {**recipe["loop"], "lr": 1e-3}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(recipe))
    run(tmp_path / "c.yaml", tmp_path / "connectors")
    spoilt = json.loads((latents / "encoded.json").read_text()) | {"made_by": {}}
    (latents / "encoded.json").write_text(json.dumps(spoilt))
    with pytest.raises(RequestError, match="encoded with other bases"):
        run(tmp_path / "r.yaml", tmp_path / "other")
