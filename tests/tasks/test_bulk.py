"""Many clips from a table: the same as one by one, resumable, divided, and bad lines are named at once."""

import numpy as np
import pytest
from typer.testing import CliRunner

from kinetophone.cli import app
from kinetophone.errors import RequestError
from kinetophone.media.read import read_clip
from kinetophone.pipeline import Kinetophone
from kinetophone.tasks.common.bulk import Line, batches, check_lines, make_batch, read_prompts, shard_of

TABLE = """prompt,seed,seconds,file
a drumstick hits a metal bowl,7,,bowl.mp4
a hammer hits a wooden box,,,
a mallet hits a drum,3,5,drums/long.mp4
"""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text(TABLE)
    return path


@pytest.fixture(scope="module")
def pipe():
    return Kinetophone.from_pretrained("hits", device="cpu")


def test_a_table_has_defaults_for_what_it_leaves_out(table):
    assert read_prompts(table) == [
        Line("a drumstick hits a metal bowl", 7, None, "bowl.mp4"),
        Line("a hammer hits a wooden box", 1, None, "00001.mp4"),
        Line("a mallet hits a drum", 3, 5.0, "drums/long.mp4"),
    ]


def test_clips_are_those_of_single_calls_and_are_not_made_twice(table, pipe, tmp_path):
    lines, out, kept = read_prompts(table), tmp_path / "out", {}

    def make(prompts, seed, **options):
        clips = pipe(prompts, seed=seed, **options)
        kept.update(zip(prompts, clips, strict=True))
        return clips

    made = list(batches(lines, out, 8))
    assert sorted(map(len, made)) == [1, 2]
    for batch in made:
        assert make_batch(make, batch, out, {"steps": 1, "progress": False}) == []
    for line in lines:
        alone, one = pipe(line.prompt, seed=line.seed, seconds=line.seconds, steps=1)[0], kept[line.prompt]
        assert np.abs(one.video.astype(int) - alone.video).mean() < 0.1  # a batch rounds differently
        np.testing.assert_allclose(one.audio, alone.audio, atol=1e-3)
        assert len(read_clip(out / line.file).video) == len(alone.video)
    (out / "00001.mp4").unlink()
    assert [line.file for batch in batches(lines, out, 8) for line in batch] == ["00001.mp4"]


def test_shards_divide_the_lines_among_machines():
    lines = [Line("a", i, None, f"{i}.mp4") for i in range(11)]
    parts = [shard_of(lines, k, 3) for k in (1, 2, 3)]
    assert sorted((line for part in parts for line in part), key=lambda line: line.seed) == lines
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_one_clip_that_fails_does_not_take_its_batch_with_it(tmp_path):
    class Clip:
        def save(self, path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"clip")

    def make(prompts, seed, **_):
        if 1 in seed:
            raise FloatingPointError("latents are not finite at step 3")
        return [Clip() for _ in prompts]

    batch = [Line("a", i, None, f"{i}.mp4") for i in range(3)]
    problems = make_batch(make, batch, tmp_path, {})
    assert problems == ["'1.mp4': latents are not finite at step 3"]
    assert {path.name for path in tmp_path.iterdir()} == {"0.mp4", "2.mp4"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("text\na\n", "no column 'prompt'"),
        ("prompt,size\na,3\n", "has the column 'size'"),
        ("prompt\n", "no lines below"),
        ("prompt,seed\na,1\n ,2\n", "line 3 has no prompt"),
        ("prompt,seed\na,one\n", "line 2: invalid literal"),
        ("prompt,file\na,x.mp4\nb,x.mp4\n", "line 3 writes 'x.mp4', as line 2 does"),
        ("prompt,file\na,../x.mp4\n", "outside of the folder"),
    ],
)
def test_bad_tables_are_refused(text, said, tmp_path):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(RequestError, match=said):
        read_prompts(tmp_path / "bad.csv")


def test_lines_that_cannot_be_made_are_named_before_a_model_is_loaded(tmp_path):
    lines = [Line("a", -1, None, "0.mp4"), Line("a", 0, -3, "1.mp4"), Line("a", 0, None, "2.xyz")]
    with pytest.raises(RequestError) as caught:
        check_lines(lines, "hits", tmp_path, {})
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["'0.mp4'", "'1.mp4'", "'2.xyz'"]


def test_the_command_makes_them_and_goes_on_where_it_stopped(table, tmp_path):
    out = tmp_path / "out"
    arguments = ["generate", "--prompts", str(table), "--out", str(out), "--steps", "1", "--shard", "1/2"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.rglob("*.mp4")} == {"bowl.mp4", "long.mp4"}
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "2 of 2 clips exist" in result.output


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["a drum"], "does not go with a prompt"),
        (["--shard", "3/2"], "shard is '3/2'"),
        (["--seed", "4"], "does not go with --seed"),
    ],
)
def test_options_that_do_not_go_together_are_named(more, said, table, tmp_path):
    result = CliRunner().invoke(
        app, ["generate", "--prompts", str(table), "-o", str(tmp_path / "out"), *more]
    )
    assert result.exit_code == 2
    assert said in result.output
