"""Tiny base U-Nets of every supported class, and couplings that do something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet3DConditionModel, UNetMotionModel
from torch import Tensor, nn

from kinetophone.av import AV
from kinetophone.bases.unet import denoisers
from kinetophone.coupling.coupling import Coupling
from kinetophone.coupling.model import JointModel

VIDEO_CLASSES = ("UNetMotionModel", "UNet3DConditionModel")
WIDTHS = (32, 64)
FRAMES = 3


def make_unets(video_class: str = "UNetMotionModel") -> AV[Any]:
    """Two-level U-Nets of widths 32 and 64, frozen, with random weights that depend on nothing else."""
    common: dict[str, Any] = {"block_out_channels": WIDTHS, "layers_per_block": 1, "norm_num_groups": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        audio = UNet2DConditionModel(
            sample_size=8,
            in_channels=8,
            out_channels=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=WIDTHS,
            attention_head_dim=8,
            class_embed_type="simple_projection",
            projection_class_embeddings_input_dim=12,
            class_embeddings_concat=True,
            **common,
        )
        common |= {"sample_size": 4, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 16}
        if video_class == "UNetMotionModel":
            video: nn.Module = UNetMotionModel(
                down_block_types=("DownBlockMotion", "CrossAttnDownBlockMotion"),
                up_block_types=("CrossAttnUpBlockMotion", "UpBlockMotion"),
                num_attention_heads=4,
                motion_num_attention_heads=4,
                motion_max_seq_length=8,
                **common,
            )
        else:
            video = UNet3DConditionModel(
                down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
                up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
                attention_head_dim=8,
                **common,
            )
    return AV(audio=audio, video=video).map(lambda unet: unet.eval().requires_grad_(False))


def make_coupling(unets: AV[Any], **settings: Any) -> Coupling:
    """A small coupling, by default with one connector level and a single conditioned U-Net level."""
    defaults: dict[str, Any] = {
        "connector_channels": 32,
        "channel_mult": [2],
        "num_blocks": [1],
        "head_dim": 16,
        "alignment": "stretched",  # so that models run without times; test_times.py has the other
    }
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Coupling.for_denoisers(denoisers(unets), **(defaults | settings)).eval()


def waken(coupling: Coupling) -> Coupling:
    """Give every layer that starts at zero small random weights, as training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in coupling.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1, generator=generator)
    return coupling


@dataclass(frozen=True)
class Inputs:
    """Arguments of a joint model."""

    latents: AV[Tensor]
    levels: AV[Tensor]
    text: AV[Tensor]
    x0_hat: AV[Tensor]

    def sample(self, i: int) -> Inputs:
        """The batch of sample i alone."""
        return Inputs(
            *(av.map(lambda x: x[i : i + 1]) for av in (self.latents, self.levels, self.text, self.x0_hat))
        )


@pytest.fixture
def inputs() -> Inputs:
    g = torch.Generator().manual_seed(2)

    def latents() -> AV[Tensor]:
        return AV(
            audio=torch.randn(2, 8, 8, 4, generator=g), video=torch.randn(2, 4, FRAMES, 4, 4, generator=g)
        )

    return Inputs(
        latents(),
        AV(audio=torch.tensor([0.701, 0.021]), video=torch.tensor([0.401, 0.006])).map(Tensor.double),
        AV(audio=torch.randn(2, 12, generator=g), video=torch.randn(2, 5, 16, generator=g)),
        latents(),
    )


@pytest.fixture
def unets() -> AV[Any]:
    return make_unets()


@pytest.fixture(params=VIDEO_CLASSES)
def any_unets(request: pytest.FixtureRequest) -> AV[Any]:
    return make_unets(request.param)


@pytest.fixture
def fresh() -> Callable[..., Coupling]:
    return make_coupling


@pytest.fixture
def trained() -> Callable[..., JointModel]:
    """``trained(unets, **settings)``: a joint model whose coupling does something."""
    return lambda unets, **settings: JointModel(
        denoisers(unets), waken(make_coupling(unets, **settings))
    ).eval()
