"""Published data sets and file lists as they lie on disk: small trees of their names, with real clips."""

import json

import pytest
from typer.testing import CliRunner

from kinetophone.cli import app
from kinetophone.data.captions import match, read_list
from kinetophone.data.prepare import Cut, prepare
from kinetophone.data.shards import read
from kinetophone.data.sources import find_sources
from kinetophone.errors import RequestError
from kinetophone.workers import Workers
from videos import write_video

CUT = Cut(fps=8, seconds=1, size=32)
RECORDING = "2015-02-16-16-49-06"


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def video(path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, size=(32, 32), **options)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def found(folder, *args, **options):
    return {s.name: s.caption for s in find_sources(folder, *args, **options)}


def clips_of(out):
    """Caption, start and events of each clip."""
    members = [m for shard in sorted(out.glob("*.tar")) for _, m in read(shard)]
    return [json.loads(m["json"]) for m in members]


def data(*arguments):
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


# --- file lists ---


@pytest.mark.parametrize(
    "name",
    [
        "./class/x.mp4",
        "class/x.mp4",
        "./path/class/x.mp4",
        "elsewhere/x.mp4",
        "x.mp4",
        "x",
        "class/x",
        "x.wav",
        "{folder}/class/x.mp4",
        "/their/disk/class/x.MP4",
        "class\\x.mp4",
        "../tree/class/x.mp4",
    ],
)
def test_a_row_names_its_file_by_path_by_name_or_by_stem(tmp_path, name):
    folder = tmp_path / "tree"
    touch(folder, "class/x.mp4", "class/y.mp4")
    table = tmp_path / "list.csv"
    table.write_bytes(f'\ufeff{name.format(folder=folder)},"a dog barks, far ""away"""\r\n\r\n'.encode())
    assert found(folder, captions=table) == {"class/x.mp4": 'a dog barks, far "away"', "class/y.mp4": None}


@pytest.mark.parametrize(
    "text",
    [
        "file,caption\na.mp4,one\n",
        "caption,split,path\none,train,a.mp4\n",
        "File_Name, Text\na.mp4, one\n",
        "./v/a.mp4,./v/a.wav,one\n",
        '"v/a.mp4","one"\n',
    ],
)
def test_lists_with_and_without_a_header(tmp_path, text):
    touch(tmp_path, "a.mp4")
    assert found(tmp_path, captions=write(tmp_path / "list.csv", text)) == {"a.mp4": "one"}


def test_a_caption_that_is_not_quoted_keeps_its_commas(tmp_path):
    touch(tmp_path, "a.MOV")
    for text, caption in (
        ("a.MOV,one, two,three\n", "one, two, three"),
        ("file,caption\na.MOV,one, two,three\n", "one, two, three"),
        ("./a.MOV,3,2,1,go\n", "3, 2, 1, go"),
    ):
        table = write(tmp_path / "list.csv", text)
        assert found(tmp_path, captions=table) == {"a.MOV": caption}


def test_among_files_of_one_name_the_path_decides(tmp_path):
    touch(tmp_path, "x.mp4", "train/x.mp4", "train/a/y.mp4", "test/x.mp4", "test/a/y.mp4")
    table = write(
        tmp_path / "list.csv",
        "./x.mp4,outer\n/data/train/x.mp4,in train\n./test/x.mp4,in test\ntrain/y.mp4,y of train\n"
        "set/test/a/y.mp4,y of test\n",
    )
    assert found(tmp_path, captions=table) == {
        "x.mp4": "outer",
        "train/x.mp4": "in train",
        "test/x.mp4": "in test",
        "train/a/y.mp4": "y of train",
        "test/a/y.mp4": "y of test",
    }


def test_a_file_that_is_missing_gives_its_caption_to_no_other(tmp_path):
    touch(tmp_path, "train/1.mp4", "test/2.mp4")
    table = write(tmp_path / "list.csv", "train/1.mp4,one\ntest/1.mp4,other\ntrain/2.mp4,two\n")
    sources = find_sources(tmp_path, captions=table)
    assert {s.name: s.caption for s in sources} == {"train/1.mp4": "one", "test/2.mp4": None}
    assert "2 rows of list.csv not used, no such file: test/1.mp4, train/2.mp4" in sources.notes


def test_names_of_several_files_and_rows_that_differ_are_named_and_not_used(tmp_path):
    touch(tmp_path, "a/x.mp4", "b/x.mp4", "c.mp4", "d.mp4", "e.mp4")
    touch(tmp_path, "f.mp4")
    rows = "x.mp4,which\np/c.mp4,one\nq/c.mp4,two\nd.mp4,same\n./d.mp4,same\nf.mp4,first\n./f.mp4,second\n"
    table = write(tmp_path / "list.csv", rows)
    sources = find_sources(tmp_path, captions=table)
    assert {s.name: s.caption for s in sources if not s.problem} == {"d.mp4": "same", "f.mp4": "first"}
    assert sources.notes == (
        "1 file with several captions in list.csv; the first one is used: f.mp4",
        "line 1 of list.csv not used, 'x.mp4' matches several files: a/x.mp4, b/x.mp4",
        "2 files not used, a name in list.csv that matches other files too: a/x.mp4, b/x.mp4",
        "1 file not used, several different rows in list.csv: c.mp4",
        "1 file not used, no row in list.csv: e.mp4",
    )


def test_many_rows_are_matched_once_each(tmp_path):
    names = [f"{i:05d}" for i in range(2000)]
    files = [tmp_path / name[-2:] / f"{name}.mp4" for name in names]
    rows = read_list(
        write(tmp_path / "list.csv", "".join(f"./p/{name}.mp4,caption {name}\n" for name in names))
    )
    matches = match(rows.rows, files, (tmp_path,))
    assert {file.stem: row.caption for file, row in matches.rows.items()} == {
        n: f"caption {n}" for n in names
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty"),
        (b"other.mp4,one\n", r"matches no file in .*first row is 'other\.mp4', the first file is 'a\.mp4'"),
        (b"a.mp4\n", "has no captions"),
        (b"a.mp4,\n", "has no captions"),
        (b"file,label\na.mp4,one\n", "has the columns file, label; it needs file and caption"),
        (b'a.mp4,"one\n', "is not a CSV file"),
        (b"a.mp4,\xff\xfe\n", "is not UTF-8"),
        (b"a" * 200_000 + b",one\n", "is not a CSV file"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path, text, message):
    touch(tmp_path, "a.mp4")
    (tmp_path / "list.csv").write_bytes(text)
    with pytest.raises(RequestError, match=message) as error:
        find_sources(tmp_path, captions=tmp_path / "list.csv")
    assert len(error.value.problems) == 1


def test_a_table_and_one_caption_for_all_exclude_each_other(tmp_path):
    touch(tmp_path, "a.mp4")
    table = write(tmp_path / "list.csv", "a.mp4,one\n")
    with pytest.raises(RequestError, match="leave out one"):
        find_sources(tmp_path, captions=table, caption="two")
    with pytest.raises(RequestError, match="is empty"):
        find_sources(tmp_path, caption=" ")


def test_what_a_list_leaves_out_is_said_and_where_captions_are_from_is_kept(tmp_path):
    video(tmp_path / "v" / "sub" / "x.MP4")
    video(tmp_path / "v" / "y.mp4")
    write(tmp_path / "v" / "y.txt", "from beside")
    touch(tmp_path / "v", "none.mp4")
    table = write(tmp_path / "list.csv", './clips/x.mp4,"one, two"\n./clips/gone.mp4,gone\n')
    done = data(
        "prepare", tmp_path / "v", tmp_path / "out", "--seconds", 1, "--size", 32, "--captions", table
    )
    assert done.exit_code == 0, done.output
    assert "1 row of list.csv not used, no such file: ./clips/gone.mp4" in done.stderr
    assert "1 file not used, no row in list.csv: none.mp4" in done.stderr
    assert "2 clips from 2 of 3 files" in done.stdout
    assert [c["caption"] for c in clips_of(tmp_path / "out")] == ["one, two", "from beside"]
    lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    rows = {row["source"]: row for row in map(json.loads, lines)}
    assert {name: row["caption_from"] for name, row in rows.items() if row["clips"]} == {
        "sub/x.MP4": "list.csv, line 1",
        "y.mp4": "y.txt",
    }
    assert rows["none.mp4"]["reason"] == "no row in list.csv"
    settings = json.loads((tmp_path / "out" / "prepare.json").read_text())
    assert (settings["layout"], settings["captions"]) == ("folder", "list.csv")
    write(table, "./clips/x.mp4,another\n")
    prepare(find_sources(tmp_path / "v", captions=table), tmp_path / "out", CUT, Workers(1))
    assert [c["caption"] for c in clips_of(tmp_path / "out")] == ["another", "from beside"]


@pytest.mark.parametrize("layout", ["folder", "greatesthits", "landscape", "vggsound"])
def test_a_list_is_honoured_with_every_layout(tmp_path, layout):
    touch(tmp_path, "rain/x_denoised.mp4", "rain/y_denoised.mp4")
    for name in ("x", "y"):
        write(tmp_path / "rain" / f"{name}_times.txt", "0.5 wood hit static\n")
    table = write(tmp_path / "list.csv", './rain/x_denoised.mp4,"what the list says"\n')
    one, other = find_sources(tmp_path, layout, captions=table).files
    assert one.caption_between(0, 4) == "what the list says"
    assert other.problem == "no row in list.csv"


def test_captions_come_from_a_table_a_file_beside_or_nowhere(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4", "c.mov")
    write(tmp_path / "b.txt", "\ufefffrom beside\n")
    table = write(tmp_path / "t.csv", 'file,caption\na.mp4,"one, two"\nb.mp4,\n')
    assert found(tmp_path, captions=table) == {"a.mp4": "one, two", "b.mp4": "from beside", "c.mov": None}


# --- no clip at all ---


def test_preparing_no_clip_is_an_error_that_says_why(tmp_path):
    folder, out = tmp_path / "v", tmp_path / "out"
    for name in ("a.mp4", "b.mp4"):
        video(folder / name, seconds=0.5)
    options = ("--seconds", 1, "--size", 32, "--workers", 1)
    done = data("prepare", folder, out, *options)
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == (
        "error: no clip was made from 2 files: a.mp4, b.mp4: no caption (name a table, put a .txt file next "
        f"to it, or give one for all); all reasons are in '{out / 'manifest.jsonl'}'"
    )
    touch(folder, "c.mp4")
    done = data("prepare", folder, out, *options, "--caption", "a tone")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith(
        "error: no clip was made from 3 files: a.mp4, b.mp4: is 0.50 s long, shorter than a clip of 1 s; "
        "c.mp4: 'c.mp4' is empty (0 bytes); all reasons"
    )
    assert not list(out.rglob("*.tar"))
    done = data("encode", out, tmp_path / "latents")
    assert done.exit_code == 2
    assert "has no clips; its manifest.jsonl says why" in done.stderr
    assert not (tmp_path / "latents").exists()
    video(folder / "d.mp4")  # the folder can be used again
    done = data("prepare", folder, out, *options, "--caption", "a tone")
    assert done.exit_code == 0, done.output
    assert "1 clips from 1 of 4 files" in done.stdout


def test_encoding_no_clip_is_an_error_and_leaves_no_cache(tmp_path):
    clips = tmp_path / "clips"
    row = {"source": "a.mp4", "clips": [], "rejected": [], "reason": "silent"}
    write(clips / "manifest.jsonl", json.dumps(row) + "\n")
    write(clips / "prepare.json", json.dumps({"fps": 8, "seconds": 1, "size": 32}))
    for text, message in (
        (None, "has no clips; its manifest.jsonl says why"),
        ("", "has no clips; its manifest.jsonl says why"),
        ("[]\n", "is damaged"),
        ('{"clips": ["00000-000-0000"]}\n', "has no clips-*.tar"),
    ):
        if text is not None:
            write(clips / "manifest.jsonl", text)
        done = data(
            "encode", clips, tmp_path / "latents", "--audio-base", "nobody/none", "--video-base", "no/no"
        )
        assert done.exit_code == 2
        assert len(done.stderr.splitlines()) == 1
        assert message in done.stderr
        assert not (tmp_path / "latents").exists()


# --- Greatest Hits ---


def test_segments_of_greatest_hits_speak_of_their_own_events(tmp_path):
    folder = tmp_path / "vis-data"
    video(folder / f"{RECORDING}_denoised.mp4", seconds=4.25)
    write(
        folder / f"{RECORDING}_times.txt",
        "2.25 plastic-bag hit deform\r\n0.5 wood hit static\r\n0.75 wood scratch static\r\n"
        "0.8 metal hit static\r\n1.5 None None None\r\n2.0 None hit None\r\n3 leaf scratch scatter\r\n\r\n",
    )
    (manifest,) = prepare(find_sources(folder, "greatesthits"), tmp_path / "out", CUT, workers=Workers(1))
    assert manifest["caption_from"] == f"{RECORDING}_times.txt"
    assert [(c["start_s"], c["caption"], c["events_s"]) for c in clips_of(tmp_path / "out")] == [
        (0, "a drumstick hits wood and metal and scratches wood", [0.5, 0.75, 0.8]),
        (2, "a drumstick hits plastic bag", [0.0, 0.25]),
        (3, "a drumstick scratches leaf", [0.0]),
    ]
    assert manifest["rejected"] == [{"start_s": 1.0, "reason": "no event, so no caption"}]


def test_the_files_of_a_recording_of_greatest_hits(tmp_path):
    touch(tmp_path, "x_denoised_thumb.mp4", "x_denoised.mp4", "x_denoised.wav", "y_denoised.MP4", "y_mic.mp4")
    touch(tmp_path, "z_mic.mp4", "videos/w_mic.mp4", "bad_mic.mp4")
    write(tmp_path / "x_times.txt", "1.5 wood hit static\n")
    write(tmp_path / "y_times.txt", "0.5 None scratch None\n")
    write(tmp_path / "labels" / "w_times.txt", "0.5 wood hit static\n")
    write(tmp_path / "gone_times.txt", "0.5 wood hit static\n")
    write(tmp_path / "bad_times.txt", "0.5 wood hit static\nnan wood hit static\n")
    sources = find_sources(tmp_path, "greatesthits")
    files = {s.name: s for s in sources}
    assert set(files) == {
        *("x_denoised_thumb.mp4", "y_denoised.MP4", "z_mic.mp4", "videos/w_mic.mp4", "bad_mic.mp4")
    }
    assert files["x_denoised_thumb.mp4"].sound == tmp_path / "x_denoised.wav"
    assert files["y_denoised.MP4"].caption_between(0, 4) == "a drumstick scratches something"
    assert files["videos/w_mic.mp4"].caption_between(0, 4) == "a drumstick hits wood"
    assert sources.notes == (
        "1 list of events not used, no video with that name: gone_times.txt",
        "1 file not used, bad_times.txt, line 2, does not start with a time in seconds: bad_mic.mp4",
        "1 file not used, no _times.txt with its events: z_mic.mp4",
    )


def test_captions_of_greatest_hits_from_a_published_list(tmp_path):
    folder = tmp_path / "vis-data-256"
    video(folder / f"{RECORDING}_denoised_thumb.mp4", seconds=2.25)
    touch(folder, "2015-02-16-17-27-53_denoised_thumb.mp4")
    write(folder / f"{RECORDING}_times.txt", "0.5 wood hit static\n")
    write(folder / "2015-02-16-17-27-53_times.txt", "0.5 wood hit static\n")
    table = write(tmp_path / "train.csv", f'./data/{RECORDING}_denoised.mp4,"hitting a table, slowly"\n')
    sources = find_sources(folder, "greatesthits", captions=table)
    assert sources.notes == ("1 file not used, no row in train.csv: 2015-02-16-17-27-53_denoised_thumb.mp4",)
    prepare(sources, tmp_path / "out", CUT, workers=Workers(1))
    assert [(c["caption"], c["events_s"]) for c in clips_of(tmp_path / "out")] == [
        ("hitting a table, slowly", [0.5]),
        ("hitting a table, slowly", []),
    ]


def test_splits_of_greatest_hits(tmp_path):
    folder = tmp_path / "vis-data"
    for name in ("x", "y"):
        touch(folder, f"{name}_mic.mp4")
        write(folder / f"{name}_times.txt", "0.5 wood hit static\n")
    with pytest.raises(RequestError, match=r"has no test\.txt"):
        find_sources(folder, "greatesthits", split="test")
    write(tmp_path / "test.txt", "y\r\n")
    assert set(found(folder, "greatesthits", split="test")) == {"y_mic.mp4"}
    write(folder / "lists" / "Test.txt", "vis/x_denoised.mp4\nz\n")
    sources = find_sources(folder, "greatesthits", split="test")
    assert [s.name for s in sources] == ["x_mic.mp4"]
    assert sources.notes == ("1 recording in test.txt not used, no such video: z",)
    write(folder / "train.txt", "nobody\n")
    with pytest.raises(RequestError, match="no videos of the layout greatesthits in its split train"):
        find_sources(folder, "greatesthits", split="train")


# --- Landscape ---


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("fire_crackling/1.mp4", "fire crackling"),
        ("raining_145_3_37.mp4", "raining"),
        ("train/fire_crackling/1.mp4", "fire crackling"),
        ("Train/fire crackling/0001.MP4", "fire crackling"),
        ("TEST/thunder_12_3.mp4", "thunder"),
        ("landscape/train/thunder_12_3.mp4", "thunder"),
        ("landscape/validation/wind_noise/v1/2.mp4", "wind noise"),
        ("waterfall_burbling/val/3.mp4", "waterfall burbling"),
        ("landscape/explosion/7.mp4", "explosion"),
        ("explosion/take_7.mp4", "explosion"),
        ("videos/squishing_water_145_3_37.mp4", "squishing water"),
        ("train/0001.mp4", None),
        ("landscape/train/0001.mp4", None),
    ],
)
def test_classes_of_landscape_are_never_its_splits(tmp_path, name, caption):
    touch(tmp_path, name)
    assert found(tmp_path, "landscape") == {name: caption}


def test_splits_of_landscape(tmp_path):
    for split in ("train", "Test"):
        video(tmp_path / "landscape" / split / "fire_crackling" / "a_1.mp4")
    assert set(found(tmp_path, "landscape", split="test")) == {"landscape/Test/fire_crackling/a_1.mp4"}
    with pytest.raises(RequestError, match="no videos of the layout landscape in its split val"):
        find_sources(tmp_path, "landscape", split="val")
    prepare(find_sources(tmp_path, "landscape", split="train"), tmp_path / "out", CUT, workers=Workers(1))
    (clip,) = clips_of(tmp_path / "out")
    assert (clip["source"], clip["caption"]) == ("landscape/train/fire_crackling/a_1.mp4", "fire crackling")
    with pytest.raises(RequestError, match="layout folder has no split"):
        find_sources(tmp_path, split="train")


def test_a_list_comes_before_the_classes_of_landscape(tmp_path):
    touch(tmp_path, "train/thunder/a.mp4", "train/thunder/b.mp4")
    table = write(tmp_path / "list.csv", "./train/thunder/a.mp4,a storm at night\n")
    assert found(tmp_path, "landscape", captions=table) == {
        "train/thunder/a.mp4": "a storm at night",
        "train/thunder/b.mp4": None,
    }


# --- VGGSound ---


def test_names_of_vggsound(tmp_path):
    table = write(
        tmp_path / "vggsound.csv",
        '-abc_def_1,30,"dog barking, far",train\n-abc_def,1,"cattle, bovinae cowbell",test\n'
        "qwertyuiopa,130,cat,test\nmissing,0,cat,test\n_i,0,bird,test\n",
    )
    folder = tmp_path / "videos"
    names = {
        "-abc_def_1_000030.mp4": "dog barking, far",
        "a/-abc_def_1_30.MP4": "dog barking, far",
        "b/-abc_def_1_30000_40000.webm": "dog barking, far",
        "b/-abc_def_1_30_40.mp4": "dog barking, far",
        "-abc_def_1.mp4": "cattle, bovinae cowbell",
        "-abc_def_000001.mp4": "cattle, bovinae cowbell",
        "qwertyuiopa_000130.mp4": "cat",
        "qwertyuiopa_130.mp4": "cat",
        "-abc_def_1_000031.mp4": None,
        "qwertyuiopa_13.mp4": None,
        "qwertyuiopa_130000_150000.mp4": None,
        "qwertyuiopa.mp4": None,
        "QWERTYUIOPA_130.mp4": None,
        "_i_0_10000.mp4": "bird",
    }
    touch(folder, *names)
    sources = find_sources(folder, "vggsound", captions=table)
    assert {s.name: s.caption for s in sources} == names
    assert sources.notes == (
        "1 row of vggsound.csv not used, no such file: missing_000000",
        "5 files not used, no row with its id and start second in vggsound.csv: -abc_def_1_000031.mp4, "
        "QWERTYUIOPA_130.mp4, qwertyuiopa.mp4 and 2 more",
    )
    one = found(folder, "vggsound", captions=table, split="train")
    assert {name for name, caption in one.items() if caption} == {
        name for name, caption in names.items() if caption == "dog barking, far"
    }
    with pytest.raises(RequestError, match="no videos of the split val"):
        find_sources(folder, "vggsound", captions=table, split="val")


def test_vggsound_is_cut_with_the_classes_of_its_table(tmp_path):
    video(tmp_path / "video" / "-a_b_000030.mp4")
    table = write(
        tmp_path / "t.csv", "# YouTube ID, start seconds, label, split\n-a_b,30,a dog, barking,train\n"
    )
    prepare(
        find_sources(tmp_path / "video", "vggsound", captions=table),
        tmp_path / "out",
        CUT,
        workers=Workers(1),
    )
    (clip,) = clips_of(tmp_path / "out")
    assert clip["caption"] == "a dog, barking"
    assert json.loads((tmp_path / "out" / "prepare.json").read_text())["captions"] == "t.csv"


def test_tables_of_vggsound(tmp_path):
    touch(tmp_path, "a_000001.mp4", "b_000001.mp4")
    with pytest.raises(RequestError, match="needs its table"):
        find_sources(tmp_path, "vggsound")
    with pytest.raises(RequestError, match="can't be combined"):
        find_sources(tmp_path, "vggsound", caption="a sound")
    listed = write(tmp_path / "list.csv", "./video/a_000001.mp4,a dog barks\n")
    assert found(tmp_path, "vggsound", captions=listed) == {
        "a_000001.mp4": "a dog barks",
        "b_000001.mp4": None,
    }
    with pytest.raises(RequestError, match="has no splits"):
        find_sources(tmp_path, "vggsound", captions=listed, split="train")
    other = write(tmp_path / "other.csv", "c,2,dog,train\n")
    for layout in ("folder", "landscape"):
        with pytest.raises(RequestError, match="name the layout vggsound"):
            find_sources(tmp_path, layout, captions=other)
    with pytest.raises(RequestError, match=r"its first row is c at 2 s, the first file is 'a_000001\.mp4'"):
        find_sources(tmp_path, "vggsound", captions=other)
    broken = write(tmp_path / "broken.csv", "a,1,dog,train\nb,soon,dog,train\n")
    with pytest.raises(RequestError, match=r"broken\.csv', line 2: expected YouTube id, start second"):
        find_sources(tmp_path, "vggsound", captions=broken)


# What people bring: letter case, links, names that collide, rows that do not fit.


def test_letter_case_of_endings_does_not_matter(tmp_path):
    write_video(tmp_path / "made.mp4", size=(32, 32))
    (tmp_path / "made.mp4").rename(tmp_path / "A.MP4")
    (tmp_path / "A.TXT").write_text("a drum")
    assert found(tmp_path) == {"A.MP4": "a drum"}
    (tmp_path / f"{RECORDING}_denoised_thumb.MP4").touch()
    (tmp_path / f"{RECORDING}_denoised.WAV").touch()
    (tmp_path / f"{RECORDING}_TIMES.TXT").write_text("0.5 metal hit\n")
    (source,) = (s for s in find_sources(tmp_path, "greatesthits") if s.events)
    assert source.sound == tmp_path / f"{RECORDING}_denoised.WAV"


def test_links_to_folders_are_followed_once_and_loops_end(tmp_path):
    disk, folder = tmp_path / "disk", tmp_path / "films"
    touch(disk, "one/a.mp4", "two/b.mp4")
    folder.mkdir()
    touch(folder, "own/c.mp4")
    (folder / "a_link").symlink_to(disk)
    (folder / "again").symlink_to(disk / "one")
    (folder / "loop").symlink_to(folder)
    (folder / "own" / "up").symlink_to(folder / "own")
    (folder / "nowhere").symlink_to(tmp_path / "none")
    names = [source.name for source in find_sources(folder, caption="a drum")]
    assert sorted(name.rpartition("/")[2] for name in names) == ["a.mp4", "b.mp4", "c.mp4"]
    assert "own/c.mp4" in names


def test_files_of_other_kinds_are_counted_and_named(tmp_path):
    touch(tmp_path, "a.mp4", "b.docx", "c.iso", "d.ISO", "captions.csv", "a.wav", ".DS_Store", "._a.mp4")
    sources = find_sources(tmp_path, caption="a drum")
    assert [source.name for source in sources] == ["a.mp4"]
    assert sources.notes == ("3 files not used, not a video (suffixes .docx, .iso): b.docx, c.iso, d.ISO",)


def test_rows_without_a_caption_and_of_no_file_are_named(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    table = write(tmp_path / "t.csv", "file,caption\n./a.mp4,a drum\nb.mp4\nc.mp4,a bowl\n,nothing\n")
    sources = find_sources(tmp_path, captions=table)
    assert found(tmp_path, captions=table) == {"a.mp4": "a drum", "b.mp4": None}
    assert "2 rows of t.csv not used, without a file or a caption: line 3, 5" in sources.notes
    assert "1 row of t.csv not used, no such file: c.mp4" in sources.notes
    absolute = write(tmp_path / "abs.csv", f"file,caption\n{tmp_path / 'b.mp4'},a bell\n")
    assert found(tmp_path, captions=absolute)["b.mp4"] == "a bell"


def test_a_caption_beside_a_film_in_latin_1_is_a_reason_and_not_a_wrong_letter(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "a.txt").write_bytes("für".encode("latin-1"))
    (tmp_path / "b.txt").write_bytes("für\r\nElise".encode("utf-16"))
    a, b = find_sources(tmp_path)
    assert (a.caption, b.caption) == (None, "für Elise")
    assert a.problem == "'a.txt' is not UTF-8 (line 1): save it as UTF-8, in Excel as 'CSV UTF-8'"


def test_names_that_are_no_text_do_not_end_a_run(tmp_path):
    folder = tmp_path / "films"
    video(folder / "good.mp4")
    (folder / "good.mp4").rename(folder / "12:30 %d \udce4.mp4")
    result = data("prepare", folder, tmp_path / "out", "--caption", "x", "--seconds", 1, "--size", 32)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "manifest.jsonl").read_text())["source"] == "12:30 %d \udce4.mp4"
