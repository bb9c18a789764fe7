"""Text states on disk: what they save, and every way in which they go stale."""

from __future__ import annotations

import copy
import shutil
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import standin_hub
import tiny
from kinetophone import Kinetophone
from kinetophone.bases import texts
from kinetophone.bases.load import load_audio_base, load_video_base
from kinetophone.bases.texts import TextCache
from kinetophone.hub.components import load_component
from standin_hub import Elsewhere

PROMPT, OTHER = "a drumstick hits metal", "a bowl"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[nn.Module]]:
    """The text encoders that were loaded for a cache."""
    made: list[weakref.ref[nn.Module]] = []

    def counted(*given: Any, **options: Any) -> Any:
        encoder = load_component(*given, **options)
        made.append(weakref.ref(encoder))
        return encoder

    monkeypatch.setattr(texts, "load_component", counted)
    return made


def audio(models: Path, cache: Path | None, **options: Any) -> Any:
    return load_audio_base(models / "stable_audio", text_cache=cache, **options)


def video(models: Path, cache: Path | None, **options: Any) -> Any:
    return load_video_base(models / "wan", text_cache=cache, **options)


@pytest.mark.parametrize("family", ["stable_audio", "audioldm", "wan", "animatediff"])
def test_states_are_those_of_the_encoder_which_is_run_once(
    models: Path, tmp_path: Path, loads: list[weakref.ref[nn.Module]], family: str
) -> None:
    load = load_audio_base if family in ("stable_audio", "audioldm") else load_video_base
    whole, base = load(models / family), load(models / family, text_cache=tmp_path / "new" / "texts")
    assert base.text_encoder is None
    assert "text_encoder" not in base.networks
    for _ in range(2):
        found = base.conditioning([PROMPT, "", PROMPT], 1.0)
        wanted = whole.encode_prompt([PROMPT, "", PROMPT], 1.0)
        named: Callable[[Any], dict[str, Tensor]] = lambda s: {"": s} if isinstance(s, Tensor) else s  # noqa: E731
        assert named(found).keys() == named(wanted).keys()
        for name, states in named(found).items():
            torch.testing.assert_close(states, named(wanted)[name], atol=1e-6, rtol=1e-5)
        alone = named(whole.encode_prompt([PROMPT], 1.0))
        for name, states in named(base.conditioning([PROMPT], 1.0)).items():
            assert torch.equal(states, alone[name]), name
    assert len(loads) == 1
    assert loads[0]() is None, "the encoder is dropped"
    assert len(list((tmp_path / "new" / "texts").iterdir())) == 2
    base.conditioning([OTHER], 1.0)
    assert len(loads) == 2
    assert base.text_encoder is None


def test_clips_are_made_without_loading_a_text_encoder(
    models: Path, tmp_path: Path, loads: list[weakref.ref[nn.Module]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pipe(cache: Path | None) -> Kinetophone:
        bases: Any = {"video": models / "wan", "audio": models / "stable_audio"}
        torch.manual_seed(0)  # of the fresh coupling
        return Kinetophone.from_bases(**bases, size=32, frames=5, kind="in_place", text_cache=cache)

    options: Any = {"steps": 1, "seed": 1}
    usual = pipe(None)(PROMPT, **options)[0]
    pipe(tmp_path)(PROMPT, **options)
    assert len(loads) == 2
    pipe(tmp_path)([OTHER, PROMPT, "a metal bowl"], batch_size=1, **options)
    assert len(loads) == 4, "each encoder is loaded once a call, for all of its texts"
    monkeypatch.setattr(TextCache, "load", None)
    cached = pipe(tmp_path)
    clip = cached(PROMPT, **options)[0]
    assert np.array_equal(clip.video, usual.video)
    assert np.array_equal(clip.audio, usual.audio)
    cached.enable_model_cpu_offload("cpu")
    assert np.array_equal(cached(PROMPT, **options)[0].video, usual.video)
    monkeypatch.undo()
    cached.save_pretrained(tmp_path / "bundle")
    whole = Kinetophone.from_pretrained(tmp_path / "bundle", text_cache=tmp_path)
    assert np.array_equal(whole(PROMPT, **options)[0].video, usual.video)


def changed_weights(folder: Path) -> None:
    encoder = load_component(folder, "text_encoder", ("T5EncoderModel",))
    with torch.no_grad():
        next(encoder.parameters()).mul_(1.5)
    encoder.save_pretrained(folder / "text_encoder")


def changed_tokenizer(folder: Path) -> None:
    file = folder / "tokenizer" / "tokenizer_config.json"
    file.write_text(file.read_text().replace('"model_max_length": 8', '"model_max_length": 6'))


def changed_configuration(folder: Path) -> None:
    file = folder / "text_encoder" / "config.json"
    file.write_text(file.read_text().replace('"layer_norm_epsilon": 1e-06', '"layer_norm_epsilon": 0.1'))


def changed_projection(folder: Path) -> None:
    torch.manual_seed(5)
    tiny.stable_audio()["projection_model"].save_pretrained(folder / "projection_model")


@pytest.mark.parametrize(
    "change", [changed_weights, changed_tokenizer, changed_configuration, changed_projection]
)
def test_a_changed_folder_makes_its_states_again(
    models: Path,
    tmp_path: Path,
    loads: list[weakref.ref[nn.Module]],
    change: Callable[[Path], None],
) -> None:
    shutil.copytree(models / "stable_audio", tmp_path / "stable_audio")
    before = audio(tmp_path, tmp_path / "texts").conditioning([PROMPT], 1.0)["states"]
    audio(tmp_path, tmp_path / "texts").conditioning([PROMPT], 1.0)
    assert len(loads) == 1
    shutil.move(tmp_path / "stable_audio", tmp_path / "moved" / "stable_audio")
    audio(tmp_path / "moved", tmp_path / "texts").conditioning([PROMPT], 1.0)
    assert len(loads) == 1, "where it lies does not matter"
    change(tmp_path / "moved" / "stable_audio")
    found = audio(tmp_path / "moved", tmp_path / "texts").conditioning([PROMPT], 1.0)["states"]
    assert len(loads) == 2
    assert found.shape != before.shape or not torch.equal(found, before)


def test_the_length_of_the_clip_counts_where_the_states_depend_on_it(
    models: Path, tmp_path: Path, loads: list[weakref.ref[nn.Module]]
) -> None:
    sound, picture = audio(models, tmp_path), video(models, tmp_path)
    one, two = (sound.conditioning([PROMPT], seconds)["seconds"] for seconds in (1.0, 1.5))
    assert not torch.equal(one, two)
    assert len(loads) == 2
    sound.conditioning([PROMPT])
    sound.conditioning([PROMPT], 2.0)  # 43 latents at 21.5 a second, which is the default
    assert len(loads) == 3
    picture.conditioning([PROMPT], 1.0)
    picture.conditioning([PROMPT], 1.5)
    assert len(loads) == 4


def test_dtypes_versions_and_devices_are_told_apart(
    models: Path, tmp_path: Path, loads: list[weakref.ref[nn.Module]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert video(models, tmp_path).conditioning([PROMPT]).dtype == torch.float32
    assert video(models, tmp_path, dtype=torch.bfloat16).conditioning([PROMPT]).dtype == torch.bfloat16
    assert len(loads) == 2
    base = video(models, tmp_path)

    def key(device: str = "cpu") -> str:
        return base.texts._key(base, PROMPT, None, torch.device(device))

    keys = {key("cpu"), key("cuda"), key("mps")}
    libraries = (texts.torch, texts.transformers)
    for owner, name in (*((library, "__version__") for library in libraries), (texts, "VERSION")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, "0.1")
            keys.add(key())
    assert len(keys) == 6
    base.conditioning([PROMPT])
    assert len(loads) == 2


def test_damaged_files_and_those_of_another_key_are_made_again(
    models: Path, tmp_path: Path, loads: list[weakref.ref[nn.Module]]
) -> None:
    base = video(models, tmp_path)
    wanted = base.conditioning([PROMPT])
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    other = base.conditioning([OTHER])
    (of_other,) = set(tmp_path.iterdir()) - {file}
    for content in (b"", whole[: len(whole) // 2], of_other.read_bytes()):
        file.write_bytes(content)
        count = len(loads)
        assert torch.equal(base.conditioning([PROMPT]), wanted)
        assert len(loads) == count + 1
        assert file.read_bytes() == whole
    assert torch.equal(base.conditioning([OTHER]), other)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors"}, "no half-written file"


def test_threads_and_copies_share_a_cache(models: Path, tmp_path: Path) -> None:
    base = copy.deepcopy(video(models, tmp_path))
    wanted = video(models, None).encode_prompt([PROMPT])
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: base.conditioning([PROMPT]), range(4)))
    assert all(torch.equal(states, wanted) for states in made)


LOAD = """
import sys
from kinetophone.bases.load import load_video_base
base = load_video_base("texts/wan", text_cache=sys.argv[1])
print(base.conditioning([sys.argv[2]]).sum().item(), base.texts.encoder)
"""


def test_an_encoder_on_the_hub_is_known_by_its_commit_and_downloaded_when_needed(
    elsewhere: Elsewhere, models: Path, tmp_path: Path
) -> None:
    shutil.copytree(models / "wan", elsewhere.root / "texts" / "wan")
    here = video(models, None).encode_prompt([PROMPT]).sum().item()
    with elsewhere.online() as (_, asked):
        (printed,) = elsewhere.run(LOAD, str(tmp_path), PROMPT)
    assert float(printed.split()[0]) == pytest.approx(here)
    assert printed.endswith(standin_hub.COMMIT)
    assert "text_encoder/model.safetensors" in asked
    shutil.rmtree(elsewhere.home / ".cache", ignore_errors=True)
    for folder in elsewhere.home.rglob("models--texts--wan"):
        shutil.rmtree(folder)  # another machine, to which the states were copied
    with elsewhere.online() as (_, asked):
        assert elsewhere.run(LOAD, str(tmp_path), PROMPT) == [printed]
    assert "transformer/diffusion_pytorch_model.safetensors" in asked
    assert not [file for file in asked if file.startswith("text_encoder")]
