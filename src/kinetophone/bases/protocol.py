"""The interface of a base to coupling and sampling: noise process, sites of the network, times, prediction.

Each family of bases is one file of this package. Its class loads the components and converts media and text
to latents and conditioning. Sampling and coupling use only its :class:`Denoiser`.

Shape legend: B batch, C channels, T time steps of a latent, N tokens, E width of a timestep embedding.
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
"""Text conditioning of a base: a tensor (B, …), or several tensors by name."""


def _same(output: Any) -> Tensor:
    return output


def _new(output: Any, changed: Tensor) -> Any:
    return changed


@dataclass(frozen=True)
class Site:
    """A module of a network where the network can be conditioned on the other modality.

    Attributes:
        path: Path of the module in the network, such as "blocks.7".
        width: Channels C there.
        layout: Layout of the activations. "map": images (B·T, C, H, W) for video, maps (B, C, T', M) for
            audio. "tokens": (B, N, C), time-major.
        prefix: Number of leading tokens that belong to no time step.
        attention: Path, within the module, of its self-attention, for couplings that act inside the block.
        read: Extracts the map or the tokens from the module's output.
        write: Puts the changed map or tokens back into the output: ``write(output, changed)``.
    """

    path: str
    width: int
    layout: Literal["map", "tokens"]
    prefix: int = 0
    attention: str = ""
    read: Callable[[Any], Tensor] = _same
    write: Callable[[Any, Tensor], Any] = _new


@dataclass(frozen=True, slots=True)
class Shared:
    """A module whose work the branches of guidance can share.

    All tensors that it takes and gives have the batch first, divided into steps if the network takes images.

    Attributes:
        path: Path of the module in the network.
        sees: What its output depends on: the noisy latents and their level alone, also the conditioning, or
            the text alone, the same at each step.
    """

    path: str
    sees: Literal["latents", "conditioning", "text"]


@dataclass(frozen=True, slots=True)
class Times:
    """Start and end of each step of a series, float64 (T,) each, in seconds of the clip."""

    starts: Tensor
    ends: Tensor

    @classmethod
    def even(cls, steps: int, rate: float) -> Times:
        """Times of ``steps`` consecutive steps at ``rate`` steps a second, from 0 s."""
        edges = torch.arange(steps + 1, dtype=torch.float64) / rate
        return cls(edges[:-1], edges[1:])

    def shifted(self, seconds: float) -> Times:
        """The same steps, ``seconds`` later."""
        return Times(self.starts + seconds, self.ends + seconds)

    def of(self, steps: int) -> Times:
        """Times of a series of ``steps`` steps that was made from this one by pooling or subdivision.

        With fewer steps, each new step covers the same number of old ones, except maybe the last. With more
        steps, each old step is divided into equal parts. If that leaves one step over, the first step is not
        divided, because the first latent of a causal autoencoder is a single frame.
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
    """A base's network and noise process, as used by coupling and sampling.

    Args:
        network: the network, frozen or not. It gets forward hooks at its sites and is otherwise unmodified.
        process: its noise process.
    """

    per_frame: bool
    """Whether each step of the latent is an image (video) or not (audio)."""
    latent_dims: int
    """Dimensions of a batch of latents: 5 for (B, C, T, H, W), 4 for (B, C, L, M), 3 for (B, C, L)."""

    def __init__(self, network: Any, process: Process) -> None:
        self.network, self.process = network, process

    @property
    @abstractmethod
    def latent_channels(self) -> int:
        """Channels of the latent."""

    @property
    @abstractmethod
    def time_width(self) -> int:
        """Width E of the embedding from :meth:`embed_time`."""

    @abstractmethod
    def sites(self) -> tuple[Site, ...]:
        """The modules where the network can be conditioned, in the order of the forward pass."""

    def shared(self, first: str) -> tuple[Shared, ...]:
        """The modules whose work the branches of guidance can share, those that see the text alone last.

        Args:
            first: path of the first conditioned site. Behind it, branches differ by the other modality.
        """
        return ()

    @property
    def substeps(self) -> int:
        """Features that a connector makes from each latent step; the first step of a causal latent gets 1."""
        return 1

    @abstractmethod
    def embed_time(self, level: Tensor) -> Tensor:
        """The network's own embedding (B, E) of noise levels (B,)."""

    @abstractmethod
    def __call__(self, x: Tensor, level: Tensor, conditioning: Conditioning) -> Tensor:
        """The network's output for noisy latents at levels (B,), in the shape of ``x``."""

    def check(self, x: Tensor) -> None:  # noqa: B027
        """Check that the network takes latents of the shape of ``x``.

        Raises:
            ValueError: if not; the message says what to do.
        """

    def steps_at(self, site: Site, x: Tensor, steps: int) -> int:
        """Number of time steps in the activations ``x`` of a site, for a latent with ``steps`` steps."""
        if site.layout == "map":
            return steps if self.per_frame else x.shape[2]
        return steps

    def network_time(self, level: Tensor) -> Tensor:
        """The time input of the network for noise levels (B,), on the network's execution device."""
        time = self.process.network_time(level)
        time = time.float() if time.is_floating_point() else time
        return time.to(execution_device(self.network))
