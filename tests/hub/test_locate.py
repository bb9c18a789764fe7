"""Models from the Hub: a real HTTP server with the Hub's routes serves tiny models; it can also be away."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import standin_hub
import tiny
from kinetophone.errors import RequestError
from kinetophone.hub import locate as locating
from standin_hub import Elsewhere

# Run in a process that knows the stand-in alone.
LOAD = """
import sys
from kinetophone.bases.load import load_audio_base, load_video_base
from kinetophone.errors import RequestError
for call in sys.argv[1:]:
    kind, name, *more = call.split()
    load = load_audio_base if kind == "audio" else load_video_base
    try:
        base = load(name, **dict(x.split("=") for x in more))
        print(type(base.unet).__name__, base.reference)
    except RequestError as error:
        print("RequestError:", error)
"""

NETWORKS = """
import sys
import torch
from kinetophone.errors import RequestError
from kinetophone.metrics.networks.load import load
for name in sys.argv[1:]:
    try:
        print(load(name, "languagebind", allow_torchscript=True)(torch.ones(1)).item())
    except RequestError as error:
        print("RequestError:", error)
"""


@pytest.fixture(scope="module")
def hub(elsewhere: Elsewhere, models: Path) -> Elsewhere:
    root = elsewhere.root
    shutil.copytree(models, root / "tiny")
    # What such repositories have besides: other precisions, other formats, pictures, a whole checkpoint.
    unet = root / "tiny" / "image" / "unet"
    (unet / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"half")
    (unet / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    (root / "tiny" / "image" / "everything.ckpt").write_bytes(b"pickle")
    (root / "tiny" / "image" / "picture.png").write_bytes(b"picture")
    pickled = root / "tiny" / "pickled"
    tiny.save(tiny.audioldm(), pickled)
    weights = pickled / "vocoder" / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    networks = root / "tiny" / "networks" / "sound"
    networks.mkdir(parents=True)
    torch.jit.trace(torch.nn.Softsign(), torch.ones(1)).save(networks / "vggish.pt")
    gated = root / "tiny" / "gated"
    tiny.save(tiny.audioldm(), gated)
    (gated / ".gated").touch()
    (gated / "network.pt").touch()
    return elsewhere


def test_a_pair_comes_from_the_hub_and_then_from_the_cache(hub: Elsewhere) -> None:
    with hub.online() as (_, asked):
        (printed,) = hub.run(LOAD, "video tiny/image motion_adapter=tiny/adapter")
    assert printed.startswith("UNetMotionModel")
    assert f"'revision': '{standin_hub.COMMIT}', 'motion_adapter': 'tiny/adapter'" in printed
    # Only what is needed came over the wire.
    assert not {f for f in asked if f.endswith((".bin", ".ckpt", ".png")) or "fp16" in f}
    assert "unet/diffusion_pytorch_model.safetensors" in asked
    away, unknown = hub.run(
        LOAD,
        "video tiny/image motion_adapter=tiny/adapter",
        "audio cvssp/audioldm-m-full",
    )
    assert away == printed
    assert unknown.startswith("RequestError: the Hub cannot be reached for 'cvssp/audioldm-m-full'")
    assert unknown.endswith("connect to the internet, or give a local folder")


def test_what_the_hub_does_not_have_is_said_in_one_line(hub: Elsewhere) -> None:
    with hub.online():
        nothing, revision, gated, pickled = hub.run(
            LOAD,
            "audio tiny/nothing",
            "audio tiny/audioldm revision=v9",
            "audio tiny/gated",
            "audio tiny/pickled",
        )
    assert nothing.startswith("RequestError: the Hub has no model 'tiny/nothing'")
    assert "has no revision 'v9'" in revision
    assert gated.startswith("RequestError: 'tiny/gated' is gated")
    assert pickled.startswith(
        "RequestError: 'tiny/pickled', for some parts, has only pickled weights (vocoder/"
    )


def test_single_networks_come_from_the_hub_and_then_from_the_cache(hub: Elsewhere) -> None:
    at = f"@{standin_hub.COMMIT}/"
    name = f"tiny/networks{at}sound/vggish.pt"
    with hub.online() as (_, asked):
        found, no_file, no_model, gated = hub.run(
            NETWORKS, name, f"tiny/networks{at}none.pt", f"tiny/nothing{at}a.pt", f"tiny/gated{at}network.pt"
        )
    assert gated.startswith("RequestError: 'tiny/gated' is gated: accept its terms on the Hub")
    assert found == "0.5"
    assert "sound/vggish.pt" in asked
    gone = "RequestError: there is no local file '{}', "
    assert (
        no_file == f"{gone.format(f'tiny/networks{at}none.pt')}and no 'none.pt' in 'tiny/networks' on the Hub"
    )
    assert no_model.startswith(
        f"{gone.format(f'tiny/nothing{at}a.pt')}and the Hub has no model 'tiny/nothing'"
    )

    found, away = hub.run(NETWORKS, name, f"of/someone{at}i3d.pt")
    assert found == "0.5"
    assert away.startswith(f"RequestError: the Hub cannot be reached for 'of/someone{at}i3d.pt', which")
    assert away.endswith("connect to the internet, or give a local file")


@pytest.mark.parametrize(
    "name", ["i3d.pt", "./no/such/i3d.pt", "/no/such/i3d.pt", "~/no/i3d.pt", "a b/c/d.pt"]
)
def test_what_is_neither_a_file_nor_one_on_the_hub(name: str) -> None:
    with pytest.raises(RequestError, match=r"there is no file '.*', and it is not a Hub file like"):
        locating.locate_file(name)


@pytest.mark.parametrize("name", ["no/such/folder", "nothing", "/nowhere/at all", "../up"])
def test_what_is_neither_a_folder_nor_an_id(name: str) -> None:
    with pytest.raises(RequestError, match="is neither a folder nor a Hub id like 'owner/name'"):
        locating.locate(name, ["unet"])
