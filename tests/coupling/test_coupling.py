"""The coupling's configuration: read from U-Nets, saved, loaded, and checked before anything is built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel, UNetMotionModel

from kinetophone.av import AV, MODALITIES
from kinetophone.bases.unet import denoisers
from kinetophone.bundle.load import load_coupling
from kinetophone.bundle.spec import BUNDLES
from kinetophone.coupling.coupling import Coupling, matched_ff_mult, trainable
from kinetophone.coupling.model import JointModel
from kinetophone.errors import RequestError
from kinetophone.reference import networks as published
from kinetophone.reference import settings as reference


def test_sites_are_where_the_flags_say(unets: AV[Any], fresh: Callable[..., Coupling]) -> None:
    deep = fresh(unets, with_connector=[False, True])
    assert [(s.path, s.channels) for s in deep.sites("video")] == [("down_blocks.1", 64), ("up_blocks.0", 64)]
    both = fresh(unets, with_connector=AV(audio=[True, True], video=[True, False]))
    assert [(s.path, s.channels) for s in both.sites("audio")] == [
        ("down_blocks.0", 32),
        ("down_blocks.1", 64),
        ("up_blocks.0", 64),
        ("up_blocks.1", 32),
    ]
    assert [s.path for s in both.sites("video")] == ["down_blocks.0", "up_blocks.1"]


def test_the_published_size() -> None:
    with torch.device("meta"):
        unets = published.unets()
        coupling = Coupling.for_denoisers(denoisers(unets))
    assert round(sum(p.numel() for p in coupling.parameters()) / 1e6, 1) == 467.7
    with torch.device("meta"):
        baseline = Coupling.for_denoisers(denoisers(unets), coupling="cross_attention")
    assert round(sum(p.numel() for p in baseline.parameters()) / 1e6, 1) == 323.7
    assert round(sum(p.numel() for p in baseline.parameters() if not p.requires_grad) / 1e6, 1) == 19.6


@pytest.mark.parametrize(("kind", "millions"), [("additive", 467.7), ("attn", 323.7)])
def test_the_size_that_the_release_says(kind: str, millions: float) -> None:
    """By the settings that its ``unet_svg/config.json`` nests."""
    with torch.device("meta"):
        unets = published.unets()
        configs = unets.map(lambda unet: dict(unet.config))
        nested = {"connector_in_type": kind}
        written = {f"connector_{m}_config": nested for m in MODALITIES}
        coupling = reference.coupling_for(unets, reference.read_settings(written, configs))
    assert round(sum(p.numel() for p in coupling.parameters()) / 1e6, 1) == millions


def test_the_size_follows_the_unets() -> None:
    base = BUNDLES / "hits"
    unets = AV(
        audio=UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(base / "audio" / "unet")),
        video=UNetMotionModel.from_config(UNetMotionModel.load_config(base / "video" / "unet")),
    )
    shipped = Coupling.load_config(base / "coupling")
    fitted = Coupling.for_denoisers(denoisers(unets))
    sizes = {"connector_channels", "channel_mult", "num_blocks", "head_dim", "video_with_connector"}
    assert {key: fitted.config[key] for key in sizes} == {key: shipped[key] for key in sizes}
    assert round(sum(p.numel() for p in fitted.parameters()) / 1e6, 1) == 3.6
    assert Coupling.for_denoisers(denoisers(unets), channel_mult=[1, 2]).config.connector_channels == 192


COMPARED = ("cross_attention", "timed_cross_attention")


@pytest.mark.parametrize("coupling", COMPARED)
def test_couplings_can_be_made_equally_large(
    coupling: str, unets: AV[Any], fresh: Callable[..., Coupling]
) -> None:
    settings = {"connector_channels": 32, "channel_mult": [2], "num_blocks": [1], "head_dim": 16}
    like = fresh(unets)
    mult = matched_ff_mult(denoisers(unets), like, coupling=coupling, **settings)
    assert trainable(fresh(unets, coupling=coupling, ff_mult=mult)) == pytest.approx(
        trainable(like), rel=0.02
    )
    with pytest.raises(
        RequestError, match=r"with ff_mult 1 this coupling has .* parameters, too many to match"
    ):
        matched_ff_mult(denoisers(unets), like, coupling=coupling, **settings | {"connector_channels": 512})


def test_a_window_adds_no_parameters(unets: AV[Any], fresh: Callable[..., Coupling]) -> None:
    assert trainable(fresh(unets, window=2)) == pytest.approx(trainable(fresh(unets)), rel=0.02)


def test_the_shipped_coupling_is_what_it_was() -> None:
    coupling = load_coupling(BUNDLES / "hits", torch.float32)
    assert (coupling.config.window, coupling.config.ff_mult) == (0, 4.0)


@pytest.mark.parametrize("coupling", ["cmc_pe", *COMPARED])
def test_save_and_load_is_bit_identical(
    coupling: str, unets: AV[Any], inputs: Any, trained: Callable[..., JointModel], tmp_path: Path
) -> None:
    model = trained(unets, coupling=coupling, with_connector=[True, True])
    model.coupling.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
    loaded = Coupling.from_pretrained(tmp_path)
    saved = model.coupling.state_dict()
    assert list(loaded.state_dict()) == list(saved)
    assert all(torch.equal(value, saved[name]) for name, value in loaded.state_dict().items())
    learns = [[p.requires_grad for p in c.parameters()] for c in (model.coupling, loaded)]
    assert learns[0] == learns[1]
    with torch.no_grad():
        outputs = []
        for one in (model, JointModel(denoisers(unets), loaded)):
            features = one.features(inputs.latents, inputs.levels, inputs.x0_hat)
            outputs.append(one(inputs.latents, inputs.levels, inputs.text, features))
    assert torch.equal(outputs[0].audio, outputs[1].audio)
    assert torch.equal(outputs[0].video, outputs[1].video)


@pytest.mark.parametrize(("axis", "dim"), [("time", 2), ("channel", 1)])
def test_feature_norm(
    axis: str, dim: int, unets: AV[Any], inputs: Any, fresh: Callable[..., Coupling]
) -> None:
    model = JointModel(denoisers(unets), fresh(unets, feature_norm=axis))
    features = model.features(inputs.latents, inputs.levels, None)
    assert features.audio.shape == (2, 32, 8)
    assert features.video.shape == (2, 32, 3)
    for feature in (features.audio, features.video):
        norm = feature.norm(dim=dim)
        torch.testing.assert_close(norm, torch.ones_like(norm))


def test_cross_attention_takes_one_unit_token(
    unets: AV[Any], inputs: Any, fresh: Callable[..., Coupling]
) -> None:
    model = JointModel(denoisers(unets), fresh(unets, coupling="cross_attention", feature_norm="time"))
    features = model.features(inputs.latents, inputs.levels, None)
    assert features.video.shape == (2, 1, 32)
    torch.testing.assert_close(features.video.norm(dim=2), torch.ones(2, 1))


def test_self_conditioning_is_read_only_by_x_pred(
    unets: AV[Any], inputs: Any, fresh: Callable[..., Coupling]
) -> None:
    for connector_input, reads in (("x_pred", True), ("x_cur", False)):
        model = JointModel(denoisers(unets), fresh(unets, connector_input=connector_input))
        with torch.no_grad():
            without = model.features(inputs.latents, inputs.levels, None)
            zeros = model.features(inputs.latents, inputs.levels, inputs.x0_hat.map(torch.zeros_like))
            conditioned = model.features(inputs.latents, inputs.levels, inputs.x0_hat)
        for modality in ("audio", "video"):
            assert torch.equal(getattr(without, modality), getattr(zeros, modality))
            assert torch.equal(getattr(without, modality), getattr(conditioned, modality)) != reads


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coupling": "addition"}, "coupling is 'addition', not one of 'cmc_pe', 'in_place'"),
        ({"connector_input": "x0"}, "connector_input is 'x0'"),
        ({"feature_norm": "frames"}, "feature_norm is 'frames', not one of 'time', 'channel'"),
        ({"with_connector": [True]}, r"with_connector has 1 flags for 2 U-Net levels"),
        ({"with_connector": [False, False]}, "conditions no level"),
        ({"head_dim": 24}, r"head_dim 24 does not divide the video widths \[32, 64\]"),
        ({"head_dim": 0}, "head_dim is 0"),
        (
            {"channel_mult": [1, 2]},
            r"channel_mult \[1, 2\] and num_blocks \[1\] must each have one entry per",
        ),
        ({"num_blocks": [0]}, "must be positive"),
        ({"window": -1}, "window is -1: it must be 0 or more"),
        ({"ff_mult": 8.0}, "ff_mult is 8.0, which the coupling 'cmc_pe' does not have"),
        (
            {"coupling": "cross_attention", "window": 1},
            "window is 1, which the coupling 'cross_attention' does",
        ),
        ({"coupling": "cross_attention", "ff_mult": 0.0}, "ff_mult is 0.0: it must be positive"),
        (
            {"coupling": "timed_cross_attention", "head_dim": 1},
            "head_dim is 1: rotary embeddings rotate pairs",
        ),
    ],
)
def test_impossible_settings_are_explained(
    settings: dict[str, Any], message: str, unets: AV[Any], fresh: Callable[..., Coupling]
) -> None:
    with pytest.raises(RequestError, match=message):
        fresh(unets, **settings)


def test_all_problems_are_reported_at_once(unets: AV[Any], fresh: Callable[..., Coupling]) -> None:
    with pytest.raises(RequestError) as raised:
        fresh(unets, coupling="none", head_dim=7)
    assert len(raised.value.problems) == 3


def test_an_unknown_setting_is_an_error(unets: AV[Any]) -> None:
    with pytest.raises(TypeError, match="conector_channels"):
        Coupling.for_denoisers(denoisers(unets), conector_channels=64)


def test_other_unets_are_refused(unets: AV[Any]) -> None:
    other = Coupling(
        audio_widths=(32, 96),
        video_channels=16,
        video_widths=(32, 64),
        audio_with_connector=(False, True),
        video_with_connector=(False, True),
        channel_mult=(1,),
        num_blocks=(1,),
        connector_channels=32,
    )
    with pytest.raises(RequestError) as raised:
        JointModel(denoisers(unets), other)
    assert raised.value.problems == (
        "the coupling belongs to other bases (the audio base has widths [32, 64], the coupling was made for "
        "[32, 96]; the video latents have 4 channels, the coupling was made for 16): use those that it was "
        "trained with, or make a new coupling with Coupling.for_denoisers",
    )
