"""Memory for sampling with the published pair, computed from parameters and activations.

    python benchmarks/memory.py [--size 256] [--seconds 4] [--fps 8] [--batch-size 1]

All networks run once on fake tensors, which have no storage, while the bytes of all live tensors are counted.
The estimate is their peak plus the weights that are on the device at that time. It does not include the
overhead of the driver, its libraries and the allocator, 0.5 to 1 GB.
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kinetophone.av import AV
from kinetophone.bases.protocol import Times
from kinetophone.bases.unet import denoisers
from kinetophone.coupling.coupling import Coupling
from kinetophone.coupling.model import JointModel
from kinetophone.media.mel import HOP, MEL_BINS, SAMPLE_RATE
from kinetophone.reference import networks as published
from kinetophone.text import markdown_table


class Alive(TorchDispatchMode):
    """Counts the bytes of live tensors created in its context; ``peak`` is their maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self.seen:
            self.seen.add(storage._cdata)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())

    def _freed(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Create floating-point tensors with ``dtype`` by default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def weights(*networks: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(t.numel() * t.element_size() for n in networks for t in (*n.parameters(), *n.buffers()))


def largest_layer(*networks: nn.Module) -> int:
    """Bytes of the weights of the largest layer."""
    return max(
        sum(p.numel() * p.element_size() for p in layer.parameters(recurse=False))
        for network in networks
        for layer in network.modules()
    )


def activations(call: Callable[[], Any]) -> int:
    """Peak bytes of tensors created by ``call``."""
    with torch.no_grad(), Alive() as alive:
        call()
    return alive.peak


def row(dtype: torch.dtype, size: int, frames: int, length: int, batch: int) -> list[str]:
    """A row of the table, for audio latents of ``length`` and ``batch`` prompts at once."""
    with FakeTensorMode():
        with default_dtype(dtype):
            unets = published.unets()
            coupling = Coupling.for_denoisers(denoisers(unets))
            model = JointModel(denoisers(unets), coupling).eval()
            around = published.around()
            texts = [around.audio["text_encoder"], around.video["text_encoder"]]
            side = size // 8
            n = 2 * batch  # guidance doubles the batch
            latents = AV(
                audio=torch.zeros(n, 8, length, MEL_BINS // 4), video=torch.zeros(n, 4, frames, side, side)
            )
            text = AV(audio=torch.zeros(n, 512), video=torch.zeros(n, 77, 768))
            levels = AV.both(torch.ones(n, dtype=torch.float64))
            times = AV(audio=Times.even(length, 25.0), video=Times.even(frames, 8.0))
            joint = activations(
                lambda: model(latents, levels, text, model.features(latents, levels, latents), times=times)
            )
        around = published.around()  # again, because decoders always run in float32
        audio, video = around.audio, around.video
        decoders = (video["vae"], audio["vae"], audio["vocoder"])
        at_once = max(1, 64**3 // size**2)  # as VideoBase.decode
        decode = max(
            activations(lambda: video["vae"].decode(torch.zeros(at_once, 4, side, side)).sample),
            activations(lambda: audio["vae"].decode(torch.zeros(batch, 8, length, MEL_BINS // 4)).sample),
            activations(lambda: audio["vocoder"](torch.zeros(batch, length * 4, MEL_BINS))),
        )
        whole = weights(*texts, model, *decoders) + max(joint, decode)
        by_model = max(weights(model) + joint, *(weights(d) + decode for d in decoders))
        by_layer = weights(coupling) + max(
            largest_layer(unets.audio, unets.video) + joint, largest_layer(*decoders) + decode
        )
    parts = (whole, by_model, by_layer, joint, decode)
    return [str(dtype).removeprefix("torch."), *(f"{size / 1e9:.1f}" for size in parts)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--fps", type=float, default=8)
    parser.add_argument("--batch-size", type=int, default=1)
    given = parser.parse_args()
    length = -(-round(given.seconds * SAMPLE_RATE) // (HOP * 4 * 8)) * 8  # as AudioLDM.latent_shape
    columns = ["GB", "all on the device", "model offload", "sequential offload", "joint model", "decoders"]
    rows = [
        row(dtype, given.size, round(given.seconds * given.fps), length, given.batch_size)
        for dtype in (torch.float32, torch.bfloat16)
    ]
    print("\n".join(markdown_table(columns, rows)))
