"""Data sets as they lie on disk: which files are used, and what is said of each."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import tiny
from kinetophone.cli import app
from kinetophone.data.shards import read
from kinetophone.data.sources import Event, find_sources
from kinetophone.errors import RequestError
from videos import write_video

WEIGHTS = "diffusion_pytorch_model.safetensors"


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def captions_of(found):
    return {source.name: source.caption for source in found.files}


def table(folder, text, name="t.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_captions_come_from_a_table_a_file_beside_or_nowhere(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4", "c.mov")
    (tmp_path / "b.txt").write_text("from beside\n")
    found = find_sources(tmp_path, captions=table(tmp_path, 'file,caption\na.mp4,"one, two"\n'))
    assert captions_of(found) == {"a.mp4": "one, two", "b.mp4": "from beside", "c.mov": None}
    assert found.notes == [f"1 files are not in '{tmp_path}/t.csv': c.mov"]


LIST = './train/x.mp4,"a dog, barking"\n./train/y.MP4,rain\n'


@pytest.mark.parametrize(
    "text",
    [
        LIST,
        LIST.replace("\n", "\r\n"),
        b"\xef\xbb\xbf" + LIST.encode(),
        LIST.replace(",", ", ", 1),
        LIST.replace("./train/", "/data/of/others/train/"),
        LIST.replace("./train/", ".\\train\\"),
        LIST.replace("./train/", ""),
        LIST.replace(".mp4", ".avi"),
        LIST.replace(".mp4", "").replace(".MP4", ""),
        'Caption,File\n"a dog, barking",train/x.mp4\nrain,train/y.MP4\n',
        "./train/x.mp4,a dog, barking\n\n./train/y.MP4,rain\n",
    ],
    ids=range(11),
)
def test_published_file_lists(tmp_path, text):
    touch(tmp_path, "train/x.mp4", "train/y.MP4")
    (tmp_path / "lists").mkdir()
    captions = table(tmp_path / "lists", text)
    found = find_sources(tmp_path, captions=captions)
    assert {k: v.replace(", ", ",") for k, v in captions_of(found).items()} == {
        "train/x.mp4": "a dog,barking",
        "train/y.MP4": "rain",
    }
    assert find_sources(tmp_path / "train", captions=captions).notes == []


def test_rows_and_files_that_match_nothing_or_too_much_are_named(tmp_path):
    touch(tmp_path, "a/x.mp4", "b/x.mp4", "y.mp4", "z.mp4")
    rows = "x.mp4,which?\ngone.mp4,nobody\ny.mp4,here\nb/x.mp4,this one\n"
    captions = table(tmp_path, rows)
    found = find_sources(tmp_path, captions=captions)
    assert captions_of(found) == {"a/x.mp4": None, "b/x.mp4": "this one", "y.mp4": "here", "z.mp4": None}
    assert found.notes == [
        "1 rows match no file: gone.mp4",
        "1 rows match several files, give their paths: x.mp4",
        f"2 files are not in '{captions}': a/x.mp4, z.mp4",
    ]
    with pytest.raises(RequestError, match=r"match no file in .* they name q\.mp4; there are a/x\.mp4, b/x"):
        find_sources(tmp_path, captions=table(tmp_path, "q.mp4,no\n"))
    with pytest.raises(RequestError, match=r"1 lines have no caption after the file: y\.mp4"):
        find_sources(tmp_path, captions=table(tmp_path, "y.mp4\n"))
    with pytest.raises(RequestError, match="is empty"):
        find_sources(tmp_path, captions=table(tmp_path, "\n"))
    with pytest.raises(RequestError, match="not a CSV file in UTF-8"):
        find_sources(tmp_path, captions=table(tmp_path, b"y.mp4,f\xfcr\n"))


@pytest.mark.parametrize("layout", ["folder", "greatesthits", "landscape", "vggsound"])
def test_a_list_of_captions_is_honoured_with_every_layout(tmp_path, layout):
    touch(tmp_path, "rain/x_denoised.mp4")
    (tmp_path / "rain" / "x_times.txt").write_text("0.5 wood hit static\n")
    captions = table(tmp_path, './rain/x_denoised.mp4,"what the list says"\n')
    (source,) = find_sources(tmp_path, layout, captions=captions).files
    assert source.caption_between(0, 4) == "what the list says"


def test_greatest_hits(tmp_path):
    touch(tmp_path, "x_denoised_thumb.mp4", "x_denoised.wav", "y_denoised.mp4", "y_mic.mp4", "z_mic.mp4")
    (tmp_path / "x_times.txt").write_text(
        "1.5 wood hit static\n2.25 plastic-bag hit deform\n2.5 None None None\n3 wood hit static\n\n"
        "4.5 None hit static\n5 None hit static\n5.5 water scratch splash\n"
    )
    (tmp_path / "y_times.txt").write_text("0.5 plastic-bag scratch deform\n")
    x, y = find_sources(tmp_path, "greatesthits").files
    assert (x.name, x.caption, x.sound) == ("x_denoised_thumb.mp4", None, tmp_path / "x_denoised.wav")
    assert x.events[:2] == (Event(1.5, "hits wood"), Event(2.25, "hits plastic bag"))
    assert x.caption_between(0, 4) == "a drumstick hits wood"
    assert x.caption_between(2, 3) == "a drumstick hits plastic bag"
    assert x.caption_between(4, 8) == "a drumstick scratches water"
    assert x.caption_between(4, 5.2) == "a drumstick hits something"
    assert x.caption_between(8, 12) is None
    assert (y.name, y.caption_between(0, 4)) == ("y_denoised.mp4", "a drumstick scratches plastic bag")
    with pytest.raises(RequestError, match=r"holds no test\.txt"):
        find_sources(tmp_path, "greatesthits", split="test")
    (tmp_path / "test.txt").write_text("y\n")
    assert find_sources(tmp_path, "greatesthits", split="test").files == [y]
    (tmp_path / "y_times.txt").write_text("soon wood hit static\n")
    with pytest.raises(RequestError, match=r"y_times\.txt', line 1: 'soon' is no time"):
        find_sources(tmp_path, "greatesthits")


def test_segments_of_greatest_hits_have_captions_and_times_of_their_own(tmp_path):
    write_video(tmp_path / "x_mic.mp4", seconds=6.25)
    (tmp_path / "x_times.txt").write_text(
        "0.5 wood hit static\n1.5 wood hit static\n2.75 metal scratch static\n"
    )
    done = prepare(tmp_path, tmp_path / "out", "--layout", "greatesthits", "--seconds", 2)
    assert done.exit_code == 0, done.output
    clips = [json.loads(members["json"]) for _, members in read(tmp_path / "out" / "clips-00000.tar")]
    assert [(c["caption"], c["start_s"], c["events_s"]) for c in clips] == [
        ("a drumstick hits wood", 0.0, [0.5, 1.5]),
        ("a drumstick scratches metal", 2.0, [0.75]),
    ]
    (row,) = map(json.loads, (tmp_path / "out" / "manifest.jsonl").read_text().splitlines())
    assert row["rejected"] == [{"start_s": 4.0, "reason": "no event, so nothing to say of it"}]


def test_landscape(tmp_path):
    touch(
        tmp_path,
        "fire_crackling/1.mp4",
        "raining_145_3_37.mp4",
        "landscape/Train/squishing_water/2.MP4",
        "landscape/test/thunder_1_2.mp4",
        "landscape/test/7_8.mp4",
    )
    found = find_sources(tmp_path, "landscape")
    assert captions_of(found) == {
        "fire_crackling/1.mp4": "fire crackling",
        "landscape/Train/squishing_water/2.MP4": "squishing water",
        "landscape/test/7_8.mp4": "landscape",
        "landscape/test/thunder_1_2.mp4": "landscape",
        "raining_145_3_37.mp4": "raining",
    }
    (tmp_path / "landscape").rename(tmp_path / "away")
    with pytest.raises(RequestError, match="has no split train: no folders train and test"):
        find_sources(tmp_path / "fire_crackling", "landscape", split="train")


def test_the_splits_of_landscape_are_no_classes(tmp_path):
    touch(tmp_path, "train/fire_1_2.mp4", "train/waves/3.mp4", "TEST/thunder_1_2.mp4", "test/5.mp4")
    assert captions_of(find_sources(tmp_path, "landscape")) == {
        "TEST/thunder_1_2.mp4": "thunder",
        "test/5.mp4": None,
        "train/fire_1_2.mp4": "fire",
        "train/waves/3.mp4": "waves",
    }
    train = find_sources(tmp_path, "landscape", split="train")
    assert list(captions_of(train)) == ["train/fire_1_2.mp4", "train/waves/3.mp4"]
    with pytest.raises(RequestError, match="has no split val: only test, train"):
        find_sources(tmp_path, "landscape", split="val")


def test_vggsound(tmp_path):
    names = ("abc_000030", "-d_e_1", "other_000001", "f_g_30", "h_5000_15000", "abc_31", "_i_0_10000")
    touch(tmp_path, *(f"video/{name}.mp4" for name in names))
    rows = (
        'abc,30,"dog barking",train\n-d_e,1,"cattle, bovinae cowbell",test\nmissing,0,cat,test\n'
        "f_g,30,drum,train\nf,30,wrong,train\nh,5,car,test\n_i,0,bird,test\n"
    )
    captions = table(tmp_path, rows, "vggsound.csv")
    found = find_sources(tmp_path, "vggsound", captions=captions)
    assert captions_of(found) == {
        "video/-d_e_1.mp4": "cattle, bovinae cowbell",
        "video/_i_0_10000.mp4": "bird",
        "video/abc_000030.mp4": "dog barking",
        "video/f_g_30.mp4": "drum",
        "video/h_5000_15000.mp4": "car",
    }
    assert found.notes == ["2 files are in no row: abc_31, other_000001", "2 rows have no file"]
    train = find_sources(tmp_path, "vggsound", captions=captions, split="train")
    assert list(captions_of(train).values()) == ["dog barking", "drum"]
    with pytest.raises(RequestError, match="needs its table"):
        find_sources(tmp_path, "vggsound")
    with pytest.raises(RequestError, match=r"no video in .* is named after a row"):
        find_sources(tmp_path, "vggsound", captions=table(tmp_path, "zzz,1,cat,test\n"))


def prepare(*arguments):
    return CliRunner().invoke(
        app, ["data", "prepare", *map(str, arguments), "--workers", "1", "--size", "64"]
    )


def test_no_clip_at_all_is_an_error_and_leaves_no_cache(tmp_path):
    touch(tmp_path, "videos/a.mp4", "videos/b.mp4")
    write_video(tmp_path / "videos" / "c.mp4", seconds=1)
    done = prepare(tmp_path / "videos", tmp_path / "clips", "--caption", "a tone")
    assert done.exit_code == 2
    assert "error: no clip was made of 3 files: " in done.output
    assert "shorter than a clip of 4 s (1)" in done.output
    encoded = CliRunner().invoke(app, ["data", "encode", str(tmp_path / "clips"), str(tmp_path / "latents")])
    assert encoded.exit_code == 2
    assert "holds no clip; its manifest.jsonl says why" in encoded.output
    assert not (tmp_path / "latents").exists()
    write_video(tmp_path / "videos" / "d.mp4", seconds=4.5)  # the folder can be used again
    done = prepare(tmp_path / "videos", tmp_path / "clips", "--caption", "a tone")
    assert done.exit_code == 0, done.output
    assert "1 clips from 1 of 4 files" in done.output


def test_other_captions_want_another_folder(tmp_path):
    write_video(tmp_path / "a.mp4", seconds=4.5)
    out = tmp_path / "out"
    assert prepare(tmp_path, out, "--caption", "a tone").exit_code == 0
    assert json.loads((out / "prepare.json").read_text())["captions"] == ["a tone"]
    assert prepare(tmp_path, out, "--caption", "a tone").exit_code == 0
    done = prepare(tmp_path, out, "--caption", "a whistle")
    assert done.exit_code == 2
    assert "other settings, sources or captions" in done.output


def test_the_notes_are_said(tmp_path: Path):
    write_video(tmp_path / "a.mp4", seconds=4.5)
    captions = table(tmp_path, "a.mp4,a tone\nb.mp4,another\n")
    done = prepare(tmp_path, tmp_path / "out", "--captions", captions)
    assert "1 rows match no file: b.mp4" in done.stderr


def test_bases_with_pickled_or_half_precision_weights_alone_encode(tmp_path):
    models = tiny.save_all(tmp_path)
    for file in [*models.glob("audioldm/*/*.safetensors"), models / "adapter" / WEIGHTS]:
        name = "pytorch_model.bin" if file.name == "model.safetensors" else "diffusion_pytorch_model.bin"
        torch.save(load_file(file), file.with_name(name))
        file.unlink()
    for file in models.glob("image/*/*.safetensors"):
        tensors = {key: x.half() if x.is_floating_point() else x for key, x in load_file(file).items()}
        save_file(tensors, file.with_name(f"{file.stem}.fp16.safetensors"), {"format": "pt"})
        file.unlink()
    write_video(tmp_path / "videos.mp4", seconds=1.5)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos.mp4").rename(tmp_path / "videos" / "a.mp4")
    clips, out = tmp_path / "clips", tmp_path / "latents"
    done = prepare(tmp_path / "videos", clips, "--caption", "a bowl", "--seconds", 1)
    assert done.exit_code == 0, done.output
    bases = ["--audio-base", models / "audioldm", "--video-base", models / "image"]
    command = ["data", "encode", clips, out, *bases, "--motion-adapter", models / "adapter"]
    refused = CliRunner().invoke(app, [*map(str, command)])
    assert refused.exit_code == 2
    assert "has only pickled weights" in refused.output
    assert "say --allow-pickle" in refused.output
    assert not out.exists()
    done = CliRunner().invoke(app, [*map(str, command), "--allow-pickle"])
    assert done.exit_code == 0, done.output
    assert (out / "encoded.json").is_file()
