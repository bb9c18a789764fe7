"""Operations of a guided step of the published pair, with and without the coupling, counted.

    python benchmarks/operations.py [--size 256] [--seconds 4] [--fps 8] [--json FILE]

The networks run on fake tensors, which have no storage, and the multiplications and additions of matrix
products, convolutions and attention are counted. Normalisations and activations are not. Both modalities
are guided by text, one prompt. The ratio is that to ``bases``.

- ``separate``: the bases as they are, each branch of guidance computed in full;
- ``bases``: the same networks with the coupling off, and what the branches share computed once;
- ``joint``: coupled; ``cross-modal``: coupled, with cross-modal guidance, which adds a branch;
- ``connectors``, ``audio blocks``, ``video blocks``: what ``joint`` adds to ``bases``;
- ``joint, separate``: coupled, each branch computed in full.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kinetophone.av import AV
from kinetophone.bases.protocol import Times
from kinetophone.bases.unet import denoisers
from kinetophone.coupling.coupling import Coupling
from kinetophone.coupling.model import JointModel
from kinetophone.diffusion.guidance import guided
from kinetophone.media.mel import HOP, MEL_BINS, SAMPLE_RATE
from kinetophone.reference import networks as published
from kinetophone.text import markdown_table


def counted(call: Callable[[], Any]) -> int:
    """Operations of ``call``: a multiplication and an addition are two."""
    # As two matrix products: the counter does not know the fused attention of a CPU.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def counts(size: int, seconds: float, fps: float) -> dict[str, int]:
    """Operations of each row."""
    frames, side = round(seconds * fps), size // 8
    length = -(-round(seconds * SAMPLE_RATE) // (HOP * 4 * 8)) * 8  # as AudioLDM.latent_shape
    with FakeTensorMode():
        unets = published.unets()
        model = JointModel(denoisers(unets), Coupling.for_denoisers(denoisers(unets))).eval()
        latents = AV(
            audio=torch.zeros(1, 8, length, MEL_BINS // 4), video=torch.zeros(1, 4, frames, side, side)
        )
        levels = AV.both(torch.tensor([1.0], dtype=torch.float64))  # a literal: guidance reads it
        text = AV(audio=torch.zeros(1, 512), video=torch.zeros(1, 77, 768))
        times = AV(audio=Times.even(length, 25.0), video=Times.even(frames, fps))
        both = AV(audio=2.5, video=7.5)

        def step(coupled: bool, sync: float = 1.0, only: str | None = None) -> int:
            predict = guided(
                model, text, text, both, sync=AV.both(sync), coupled=coupled, only=only, times=times
            )
            return counted(lambda: predict(latents, levels, latents))

        def separate(coupled: bool) -> Any:
            x, level, said = (pair.map(lambda t: torch.cat([t, t])) for pair in (latents, levels, text))
            features = None
            if coupled:
                features = model.features(latents, levels, latents).map(lambda t: torch.cat([t, t]))
            return model(x, level, said, features, times=times)

        connectors = counted(lambda: model.features(latents, levels, latents))
        rows = {
            "separate": counted(lambda: separate(False)),
            "bases": step(False),
            "joint": step(True),
            "cross-modal": step(True, 2.0),
            "connectors": connectors,
        }
        for modality in ("audio", "video"):
            added = step(True, only=modality) - step(False, only=modality)
            rows[f"{modality} blocks"] = added - connectors
        rows["joint, separate"] = counted(lambda: separate(True))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--fps", type=float, default=8)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = counts(args.size, args.seconds, args.fps)
    cells = [[name, f"{n / 1e12:.3f}", f"{n / rows['bases']:.3f}"] for name, n in rows.items()]
    print("\n".join(markdown_table(["", "10^12 operations", "of the bases"], cells)))
    if args.json:
        settings = {"size": args.size, "seconds": args.seconds, "fps": args.fps, "torch": torch.__version__}
        args.json.write_text(json.dumps({**settings, "operations": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
