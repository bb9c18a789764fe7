"""What a base offers to be coupled: a noise process, the sites of its network, times, and one prediction.

A family of bases is one file of this package. Its class loads the components and turns media and text into
latents and conditioning; its :class:`Denoiser` is all that sampling and coupling see of it.

Shape legend: B batch, C channels, T time steps of a latent, N tokens, E width of a time embedding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from kinetophone.bases.computing import execution_device
from kinetophone.diffusion.process import Process

Conditioning = Tensor | Mapping[str, Tensor]
"""What a base is told of a text: a tensor (B, …), or several by name."""


def _same(output: Any) -> Tensor:
    return output


def _new(output: Any, changed: Tensor) -> Any:
    return changed


@dataclass(frozen=True)
class Site:
    """A module of a network behind which another modality may be let in.

    Attributes:
        path: Of the module in the network, such as "blocks.7".
        width: Channels C there.
        layout: "map": images (B·T, C, H, W) of a video, maps (B, C, T', M) of a sound. "tokens": (B, N, C),
            time-major.
        prefix: Tokens in front that belong to no time.
        attention: Path in the module of its self-attention, for couplings that act inside the block.
        read: Takes the map or the tokens out of what the module returns.
        write: Puts changed ones back, ``write(returned, changed)``.
    """

    path: str
    width: int
    layout: Literal["map", "tokens"]
    prefix: int = 0
    attention: str = ""
    read: Callable[[Any], Tensor] = _same
    write: Callable[[Any, Tensor], Any] = _new


@dataclass(frozen=True, slots=True)
class Times:
    """When each step of a series begins and ends, float64 (T,) each, in seconds of the clip."""

    starts: Tensor
    ends: Tensor

    @classmethod
    def even(cls, steps: int, rate: float) -> Times:
        """Of ``steps`` steps that follow one another, ``rate`` a second."""
        edges = torch.arange(steps + 1, dtype=torch.float64) / rate
        return cls(edges[:-1], edges[1:])

    def shifted(self, seconds: float) -> Times:
        """The same steps, ``seconds`` later."""
        return Times(self.starts + seconds, self.ends + seconds)

    def of(self, steps: int) -> Times:
        """Of ``steps`` steps made from these: each takes in as many of them, or is as large a part of one.

        Where steps are divided and one is left over, the first is whole: a causal autoencoder's first latent
        is a single frame.
        """
        if steps > len(self.starts):
            whole = 1 if steps % len(self.starts) else 0
            parts = (steps - whole) // (len(self.starts) - whole)
            share = torch.arange(parts, dtype=torch.float64) / parts
            lengths = (self.ends - self.starts)[whole:, None]
            starts = torch.cat([self.starts[:whole], (self.starts[whole:, None] + share * lengths).flatten()])
            return Times(starts, torch.cat([starts[1:], self.ends[-1:]]))
        every = -(-len(self.starts) // steps)
        last = [min((k + 1) * every, len(self.ends)) - 1 for k in range(steps)]
        return Times(self.starts[::every].contiguous(), self.ends[last])


class Denoiser(ABC):
    """A base's network, as coupling and sampling use it.

    Args:
        network: frozen or not; it gets forward hooks at its sites and is otherwise unmodified.
        process: its noise process.
    """

    per_frame: bool
    """Whether a step of the latent is an image with positions of its own (video) or not (audio)."""
    latent_dims: int
    """Dimensions of a batch of its latents: 5 for (B, C, T, H, W), 4 for (B, C, L, M), 3 for (B, C, L)."""

    def __init__(self, network: Any, process: Process) -> None:
        self.network, self.process = network, process

    @property
    @abstractmethod
    def latent_channels(self) -> int:
        """Channels of its latent."""

    @property
    @abstractmethod
    def time_width(self) -> int:
        """Width E of :meth:`embed_time`."""

    @abstractmethod
    def sites(self) -> tuple[Site, ...]:
        """Where it can be conditioned, in the order in which it passes them."""

    @property
    def substeps(self) -> int:
        """Features that a connector makes of each step of its latent, but the first of a causal one."""
        return 1

    @abstractmethod
    def embed_time(self, level: Tensor) -> Tensor:
        """The network's own embedding (B, E) of noise levels (B,)."""

    @abstractmethod
    def __call__(self, x: Tensor, level: Tensor, conditioning: Conditioning) -> Tensor:
        """The network's output for noisy latents at levels (B,), in the shape of ``x``."""

    def check(self, x: Tensor) -> None:  # noqa: B027
        """Raise a ValueError that says what to do unless the network takes latents of this shape."""

    def steps_at(self, site: Site, x: Tensor, steps: int) -> int:
        """Length along time of what a site holds, ``x``, where the latent has ``steps``."""
        if site.layout == "map":
            return steps if self.per_frame else x.shape[2]
        return steps

    def network_time(self, level: Tensor) -> Tensor:
        """What the network is told as time, where it computes."""
        time = self.process.network_time(level)
        time = time.float() if time.is_floating_point() else time
        return time.to(execution_device(self.network))
