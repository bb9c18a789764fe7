"""The command line: what it passes on, what it shows, and how it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from kinetophone.av import AV
from kinetophone.bundle.spec import BundleSpec
from kinetophone.cli import app
from kinetophone.media import Clip

MakeClip = Callable[..., Clip]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Runs the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "kinetophone.json").write_text('{"fps": 8, "frames": 32, "size": 64, "sample_rate": 16000}')
    return folder


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch, make_struck_clip: MakeClip) -> Iterator[list[dict[str, Any]]]:
    """Stands in for the models and records what they are asked for."""
    calls: list[dict[str, Any]] = []

    class Kinetophone:
        device = torch.device("cpu")
        spec: BundleSpec

        @classmethod
        def from_pretrained(cls, name: str, **options: Any) -> Kinetophone:
            calls.append({"bundle": name, **options})
            pipe = cls()
            pipe.spec = BundleSpec.read(name)
            return pipe

        def __call__(self, prompts: list[str], **options: Any) -> list[Clip]:
            calls.append({"prompts": prompts, **options})
            return [make_struck_clip([0.5 + 0.25 * index, 2.5], size=64) for index, _ in enumerate(prompts)]

    module = ModuleType("kinetophone.pipeline")
    module.Kinetophone = Kinetophone  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kinetophone.pipeline", module)
    return calls


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes it an error to touch the pipeline."""
    monkeypatch.setitem(sys.modules, "kinetophone.pipeline", None)


def assert_refused(result: Result, message: str) -> None:
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert re.match(f"error: {message}", lines[0]), lines[0]


def test_generate_passes_on_what_was_given_and_nothing_else(
    run: Callable[..., Result], bundle: Path, pipeline: list[dict[str, Any]], tmp_path: Path
) -> None:
    result = run(
        "generate", "a bowl is hit", "-o", "out/clip.mp4", "--bundle", bundle, "--steps", 5, "--seed", 7
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == "out/clip.mp4"
    assert (tmp_path / "out" / "clip.mp4").stat().st_size > 1000
    assert pipeline == [
        {"bundle": str(bundle), "dtype": torch.float32, "allow_pickle": False},
        {"prompts": ["a bowl is hit"], "seconds": 4.0, "seed": 7, "steps": 5, "progress": True},
    ]


def test_generate_says_where_half_precision_is_emulated(
    run: Callable[..., Result], bundle: Path, pipeline: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    result = run("generate", "a bowl", "-o", "clip.mp4", "--bundle", bundle, "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    assert "this CPU emulates bfloat16" in result.stderr
    assert pipeline[0]["dtype"] == torch.bfloat16


def test_generate_several_with_sheets(
    run: Callable[..., Result], bundle: Path, pipeline: list[dict[str, Any]], tmp_path: Path
) -> None:
    options = ["--count", 2, "--sheet", "--gamma", 1.5, "--guidance", "2,7"]
    options += ["--guidance-sync", "3,5.5"]
    more = ["--negative-prompt", "blur", "--device", "cpu", "--fps", 8, "--seconds", 4]
    result = run("generate", "a bowl", "-o", "clip.wav", "--bundle", bundle, *options, *more)
    assert result.exit_code == 0, result.output
    names = ["clip-0.wav", "clip-0.png", "clip-1.wav", "clip-1.png"]
    assert result.stdout.split() == names
    assert all((tmp_path / name).is_file() for name in names)
    assert pipeline[0] == {
        "bundle": str(bundle),
        "device": "cpu",
        "dtype": torch.float32,
        "allow_pickle": False,
    }
    # As many at once as the bundle says, each written before the next is made.
    assert [call["seed"] for call in pipeline[1:]] == [0, 1]
    assert pipeline[1] == {
        "prompts": ["a bowl"],
        "seconds": 4.0,
        "fps": 8.0,
        "seed": 0,
        "gamma": 1.5,
        "guidance": AV(audio=2.0, video=7.0),
        "guidance_sync": AV(audio=3.0, video=5.5),
        "negative_prompt": "blur",
        "progress": True,
    }


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("", [], "the prompt is empty; describe what"),
        ("a bowl", ["--bundle", "nonesuch"], "unknown bundle 'nonesuch'; available: "),
        ("a bowl", ["-o", "clip.avi"], r"'clip\.avi' has the suffix '\.avi'; a clip can be written as"),
        (
            "a bowl",
            ["-o", "bundle/kinetophone.json/clip.mp4"],
            "'bundle/kinetophone.json/clip.mp4' cannot be",
        ),
        ("a bowl", ["--seconds", 0], "seconds is 0; it must be a finite number above 0"),
        ("a bowl", ["--seconds", 601], "seconds is 601; bundle 'bundle' makes clips of 4 to 600 s at 8 fps"),
        ("a bowl", ["--fps", -1], "fps is -1; it must be above 0"),
        ("a bowl", ["--guidance", "1,-1"], "guidance is -1; it must be at least 0"),
        ("a bowl", ["--guidance-sync", "1,-2"], "guidance-sync is -2; it must be at least 0"),
        ("a bowl", ["--steps", 0], "steps is 0; it must be 1 to 1000"),
        ("a bowl", ["--gamma", 0], "gamma is 0; it must be above 0"),
        ("a bowl", ["--gamma", "auto"], "bundle '.*' has no automatic γ; find it with: kinetophone gamma"),
        ("a bowl", ["--gamma", "fast"], "gamma is 'fast'; it must be a number above 0, or auto"),
        ("a bowl", ["--count", 0], "count is 0; it must be 1 to 10000"),
    ],
)
def test_generate_refuses_before_any_model_is_loaded(
    run: Callable[..., Result], bundle: Path, prompt: str, options: list[Any], message: str
) -> None:
    defaults = {"-o": "clip.mp4", "--bundle": bundle.name}
    given = defaults | dict(zip(options[::2], options[1::2], strict=True))
    assert_refused(run("generate", prompt, *(part for pair in given.items() for part in pair)), message)


def test_train_calls_training(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = []
    monkeypatch.setattr("kinetophone.training.run", lambda recipe, **options: calls.append((recipe, options)))
    monkeypatch.setattr("kinetophone.training.recipe.load_recipe", lambda recipe: None)
    (tmp_path / "recipe.yaml").touch()
    assert run("train", "recipe.yaml", "--out", "runs/x", "--fresh").exit_code == 0
    assert run("train", "recipe.yaml").exit_code == 0
    assert calls == [
        (Path("recipe.yaml"), {"out": Path("runs/x"), "resume": False}),
        (Path("recipe.yaml"), {"out": None, "resume": True}),
    ]


def test_train_without_recipe_names_those_there_are(run: Callable[..., Result], tmp_path: Path) -> None:
    assert_refused(run("train", "nonesuch.yaml"), r"recipe 'nonesuch\.yaml' does not exist$")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "hits.yaml").touch()
    assert_refused(run("train", "nonesuch.yaml"), r"recipe .* does not exist; choose from recipes/hits\.yaml")


def test_train_with_a_bad_recipe_is_one_line(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("- not\n- keys\n")
    assert_refused(run("train", "recipe.yaml"), r"recipe\.yaml must contain keys and values")


def test_data_hits_writes_a_split(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("data", "hits", "--split", "test", "--count", 2, "--out", "clips", "--size", 32)
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (tmp_path / "clips").iterdir())
    assert names == ["00000.mp4", "00001.mp4", "captions.csv", "events.json"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--split", "validation", "split is 'validation'; it must be one of train, val, test"),
        ("--count", 0, "count is 0; it must be at least 1"),
        ("--size", 60, "size is 60; it must be a multiple of 8 and at least 32"),
    ],
)
def test_data_hits_refuses(run: Callable[..., Result], option: str, value: object, message: str) -> None:
    assert_refused(run("data", "hits", "--out", "clips", option, value), message)


def test_evaluate_a_folder(run: Callable[..., Result], make_struck_clip: MakeClip, tmp_path: Path) -> None:
    strikes = {"a.mp4": [0.5, 2.0], "b.mp4": [1.0, 3.0]}
    for name, strikes_s in strikes.items():
        make_struck_clip(strikes_s, size=64).save(tmp_path / "clips" / name)
    (tmp_path / "clips" / "c.mp4").write_bytes(b"no film")
    events = {"clips": {name: {"strikes_s": strikes_s} for name, strikes_s in strikes.items()}}
    (tmp_path / "clips" / "events.json").write_text(json.dumps(events))
    result = run("evaluate", "clips", "--json", "report/sync.json", "--workers", 1)
    assert result.exit_code == 0, result.output
    for text in (
        "3 clips, scored: 2 at 8 fps",
        "event_f1",
        "av_align_svg",
        "audio_f1 (against truth)",
        "shuffled",
    ):
        assert text in result.stdout
    assert "not scored: c.mp4: 'clips/c.mp4' cannot be read as media" in result.stdout
    report = json.loads((tmp_path / "report" / "sync.json").read_text())["clips"]
    assert report["metrics"]["event_f1"]["value"] == 1.0
    assert report["metrics"]["event_f1"]["n"] == 2
    assert report["detectors"]["video_f1"]["value"] == 1.0
    assert report["unscored"][0]["name"] == "c.mp4"


MORE = ("--keep", "kept", "--json", "r.json", "--uncoupled")


def test_evaluate_generated_beside_the_true_clips(
    run: Callable[..., Result], bundle: Path, pipeline: list[dict[str, Any]], tmp_path: Path
) -> None:
    model = ("--bundle", bundle, "--text-cache", "texts")
    result = run("evaluate", "--generate", 2, *model, "--steps", 3, *MORE)
    assert pipeline[0]["text_cache"] == Path("texts")
    assert result.exit_code == 0, result.output
    assert pipeline[1]["steps"] == pipeline[2]["steps"] == 3
    assert pipeline[2] == pipeline[1] | {"coupled": False}
    assert len(pipeline[1]["prompts"]) == 2
    assert all(pipeline[1]["prompts"])
    kept = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "kept").rglob("*.mp4"))
    assert kept == [f"kept/{name}/000{index}.mp4" for name in ("generated", "uncoupled") for index in (0, 1)]
    report = json.loads((tmp_path / "r.json").read_text())
    synchrony = {name: part["synchrony"] for name, part in report.items()}
    assert synchrony["generated"]["clips"] == synchrony["true"]["clips"] == 2
    assert synchrony["true"]["detectors"]["audio_f1"]["n"] == 2


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either a folder of clips or --generate with a number"),
        (["bundle", "--generate", 3], "give either a folder"),
        (["nowhere"], "'nowhere' is not a folder"),
        (["bundle"], "'bundle' has no clips; looked for"),
        (["--generate", 0], "generate is 0; it must be at least 1"),
        (["--generate", 3, "--split", "all"], "split is 'all'; it must be one of train, val, test"),
        (
            ["--generate", 3, "--held-out"],
            "--held-out needs a bundle of hits16, 16 frames a second",
        ),
        (["--generate", 3, "--bundle", "nonesuch"], "unknown bundle 'nonesuch'"),
        (["--generate", 3, "--bundle", "bundle", "--gamma", 0], "gamma is 0; it must be above 0"),
        (["bundle", "--json", "bundle"], "'bundle' is a folder; name a file in it"),
        (["bundle", "--workers", 0], "workers is 0; it must be at least 1"),
        (
            ["bundle", "--metrics", "fid"],
            "metric 'fid' is unknown; choose from hits, imagebind, languagebind, clap",
        ),
        (["bundle", "--metrics", "fvd", "--reference", "b"], "metric fvd needs --i3d"),
        (["bundle", "--metrics", "hits"], "metric hits needs --captions FILE, --reference DIR, or both"),
        (["bundle", "--metrics", "desync"], "metric desync needs --synchformer"),
        (
            ["bundle", "--metrics", "imagebind", "--imagebind", "."],
            "'.' cannot be loaded .*neither 'model.safetensors' nor model.pt",
        ),
        (["bundle", "--reference", "b"], "--reference is for the metrics hits, clap, fad, fvd; name one"),
        (["--generate", 3, "--report", "r.html"], "--reference, .* --ray need a folder"),
    ],
)
@pytest.mark.usefixtures("bundle")
def test_evaluate_refuses(run: Callable[..., Result], arguments: list[Any], message: str) -> None:
    assert_refused(run("evaluate", *arguments), message)


def test_evaluate_writes_a_page_and_distances(
    run: Callable[..., Result], make_struck_clip: MakeClip, tmp_path: Path
) -> None:
    for index in range(4):
        make_struck_clip([0.5 + 0.25 * index, 2.5], size=64).save(tmp_path / "clips" / f"{index}.mp4")
    with_distances = ("--metrics", "hits", "--reference", "clips", "--report", "r.html", "--json", "r.json")
    result = run("evaluate", "clips", "--workers", 1, *with_distances)
    assert result.exit_code == 0, result.output
    for text in ("hits-FVD", "hits-FAD", "4 vectors for 256 dimensions", "r.html"):
        assert text in result.stdout
    assert "hits-FVD" in (tmp_path / "r.html").read_text()
    written = (tmp_path / "r.json").read_text()
    # An entry of a list in a line: every clip's scores are in one.
    scored = [json.loads(line.strip().rstrip(",")) for line in written.splitlines() if '{"name"' in line]
    assert [row["name"] for row in scored] == [f"{index}.mp4" for index in range(4)]
    quality = json.loads(written)["quality"]
    assert quality["distances"]["hits-FAD"]["frechet"] == pytest.approx(0, abs=1e-6)
    same = run("compare", "r.json", "r.json", "--json", "c.json")
    assert same.exit_code == 0, same.output
    assert "4 pairs by name" in same.stdout
    row = json.loads((tmp_path / "c.json").read_text())["metrics"]["contact_f1"]
    assert (row["difference"], row["first_higher"], row["n"]) == (0.0, 0.5, 4)


def test_compare_refuses(run: Callable[..., Result], tmp_path: Path) -> None:
    assert_refused(run("compare", "a", "b"), "'a' does not exist; give a folder of clips or a JSON")
    (tmp_path / "a.json").write_text("{}")
    assert_refused(
        run("compare", "a.json", "a.json"), r"'a\.json' is not a report of kinetophone evaluate DIR"
    )


def test_evaluate_with_events_that_do_not_exist(
    run: Callable[..., Result], make_struck_clip: MakeClip, tmp_path: Path
) -> None:
    make_struck_clip([1.0]).save(tmp_path / "clips" / "a.mp4")
    assert_refused(run("evaluate", "clips", "--events", "none.json"), r"'none\.json' does not exist")


def test_version(run: Callable[..., Result]) -> None:
    from kinetophone import __version__

    assert run("--version").stdout.strip() == __version__


HELP = """
import sys
from kinetophone.av import AV
from kinetophone.cli import app
try:
    app(["generate", "--help"])
finally:
    heavy = {"torch", "librosa", "cv2", "av", "matplotlib", "scipy", "diffusers", "numpy"}
    print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


def test_help_loads_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    assert "--negative-prompt" in done.stdout
    assert done.stderr == "[]\n"


def test_the_installed_script_refuses_like_the_function(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kinetophone", "generate", "", "-o", "clip.mp4"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: the prompt is empty")
    assert "Traceback" not in done.stderr


def test_progress_and_numbers_do_not_mix(
    run: Callable[..., Result], make_struck_clip: MakeClip, tmp_path: Path
) -> None:
    make_struck_clip([1.0], size=64).save(tmp_path / "clips" / "a.mp4")
    result = run("evaluate", "clips")
    assert result.exit_code == 0
    assert "reading clips" not in result.stdout
    assert np.isfinite(float(re.search(r"event_f1\D+(\d\.\d+)", result.stdout).group(1)))  # type: ignore[union-attr]


# Errors of every kind become lines in one place.


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (
            AssertionError("Torch not compiled\nwith CUDA"),
            1,
            "unexpected AssertionError: Torch not",
        ),
        (KeyError("frames"), 1, "unexpected KeyError: 'frames'; run kinetophone --debug"),
        (RecursionError(), 1, "unexpected RecursionError: RecursionError; run kinetophone --debug"),
        (MemoryError(), 2, "there is not enough memory (MemoryError); ask for fewer"),
        (OSError(28, "No space left on device", "a.mp4"), 2, "the disk is full: [Errno 28] No space left"),
        (PermissionError(13, "Permission denied", "a.mp4"), 2, "[Errno 13] Permission denied: 'a.mp4'"),
        (FloatingPointError("the latents are not finite"), 2, "the latents are not finite"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), 1, "unexpected UnicodeDecodeError"),
    ],
)
def test_every_error_is_a_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, said: str
) -> None:
    def fail(*given: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("kinetophone.bundle.spec.BundleSpec.read", fail)
    command = ["generate", "a drum", "-o", "a.mp4"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == status
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {said}")
    debugged = CliRunner().invoke(app, ["--debug", *command])
    assert debugged.exception is error


NUMBERS = ("nan", "inf", "-inf", "1e400", "-1", "0", "1e30", "99999999999999999999999")


@pytest.mark.parametrize("value", NUMBERS)
@pytest.mark.parametrize(
    "option",
    [
        "--seconds", "--fps", "--steps", "--gamma", "--guidance", "--guidance-sync",
        "--seed", "--batch-size", "--count",
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused_before_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, option: str, value: str
) -> None:
    monkeypatch.setattr("kinetophone.cli.make.load_pipeline", None)
    fine = {("--guidance", "0"), ("--guidance-sync", "0"), ("--seed", "0")}
    command = ["generate", "a drum", "-o", str(tmp_path / "a.mp4"), f"{option}={value}"]
    result = CliRunner().invoke(app, command)
    if (option, value) in fine:
        assert "unexpected TypeError" in result.stderr  # it got as far as the model
    else:
        assert result.exit_code == 2
        assert "unexpected" not in result.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x" * 300 + ".mp4", "longer than the 255 bytes that a name may have; shorten it"),
        ("太" * 100 + ".mp4", "longer than the 255 bytes that a name may have; shorten it"),
        ("/".join(["d" * 200] * 21) + "/a.mp4", "longer than the 4000 bytes"),
    ],
)
def test_names_that_would_fail_at_the_end_are_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, said: str
) -> None:
    monkeypatch.setattr("kinetophone.cli.make.load_pipeline", None)
    result = CliRunner().invoke(app, ["generate", "a drum", "-o", f"{tmp_path}/{name}"])
    assert (result.exit_code, said in result.stderr) == (2, True), result.stderr


def test_long_prompts_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("kinetophone.cli.make.load_pipeline", None)
    result = CliRunner().invoke(app, ["generate", "drum " * 500, "-o", str(tmp_path / "a.mp4")])
    assert (result.exit_code, result.stderr) == (
        2,
        "error: the prompt has 2500 characters; at most 2000 can be used\n",
    )


def test_a_reader_that_has_enough_ends_a_command_quietly(tmp_path: Path) -> None:
    command = f"{sys.executable} -m kinetophone generate --help | head -c 10"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr == ""
