"""γ "auto": choose a bundle's timestep adjustment from the information audio and video share.

The rule is in :mod:`kinetophone.diffusion.information`. This module measures it on clips, plots it and stores
the result in the bundle.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kinetophone.av import AV, MODALITIES
from kinetophone.bases.protocol import Conditioning
from kinetophone.data.domains import domain as domain_of
from kinetophone.diffusion.guidance import guided
from kinetophone.diffusion.information import GammaChoice, InformationMap, choose_gamma, measure
from kinetophone.errors import RequestError
from kinetophone.media.read import resample_audio
from kinetophone.progress import track

if TYPE_CHECKING:
    from kinetophone.bundle.load import Bundle

_AT_ONCE = 8  # clips per batch


def map_bundle(bundle: Bundle, clips: int, data: Path | None = None, domain: str = "hits") -> InformationMap:
    """Measure the information map of a bundle's coupling, without guidance.

    Args:
        bundle: the loaded bundle.
        clips: number of clips to measure on.
        data: a folder written by ``kinetophone data encode`` with the same bases; default: clips of the val
            split of ``domain``.
        domain: a procedural domain, see :mod:`kinetophone.data.domains`.

    Raises:
        RequestError: the folder has fewer clips.
    """
    parts, first = [], 0
    batches = -(-clips // _AT_ONCE)
    for captions, clean in track(_batches(bundle, clips, data, domain), batches, "measuring the map"):
        text: AV[Conditioning] = bundle.bases.map(
            lambda base, texts=captions: base.conditioning(texts, bundle.spec.time().duration_s)
        )
        times = bundle.latent_times(clean.map(lambda x: x.shape[2]), bundle.spec.fps)
        parts.append(
            measure(
                guided(bundle.model, text, None, AV.both(1.0), times=times),
                guided(bundle.model, text, None, AV.both(1.0), coupled=False),
                clean,
                bundle.processes,
                list(range(first, first + len(captions))),
                self_conditioning=bundle.coupling.config.connector_input == "x_pred",
            )
        )
        first += len(captions)
    return InformationMap.joined(parts)


def _batches(
    bundle: Bundle, clips: int, data: Path | None, domain: str
) -> Iterator[tuple[list[str], AV[Tensor]]]:
    """Captions and clean latents in batches."""
    if data is not None:
        from kinetophone.data.encoded import load_encoded

        encoded = load_encoded(data, clips, bundle.bases)
        if len(encoded) < clips:
            raise RequestError([f"count is {clips}, but '{data}' holds {len(encoded)} clips"])
        for start in range(0, clips, _AT_ONCE):
            index = np.arange(start, min(start + _AT_ONCE, clips))
            latents = AV(encoded.audio, encoded.video)
            yield (
                [encoded.captions[i][0] for i in index],
                latents.map(lambda source, i=index: torch.from_numpy(source[i]).float().to(bundle.device)),
            )
        return
    make_clip, rate = domain_of(domain).make_clip, int(domain_of(domain).SAMPLE_RATE)
    own = bundle.bases.audio.sample_rate
    for start in range(0, clips, _AT_ONCE):
        made = [make_clip("val", i, bundle.spec.size) for i in range(start, min(start + _AT_ONCE, clips))]
        heard = [
            clip.audio if rate == own else resample_audio(clip.audio, rate, own)  # bit-equal at one rate
            for clip in made
        ]
        audio = torch.from_numpy(np.stack(heard))
        frames = torch.from_numpy(np.stack([clip.video for clip in made]))
        yield (
            [clip.caption for clip in made],
            AV(audio=bundle.bases.audio.encode(audio), video=bundle.bases.video.encode(frames)),
        )


def find_gamma(
    bundle: Bundle, clips: int, data: Path | None = None, domain: str = "hits"
) -> tuple[GammaChoice, InformationMap, dict[str, Any]]:
    """Choose γ for a bundle; the arguments are those of :func:`map_bundle`.

    Returns:
        The choice, the map, and both as plain numbers for JSON.
    """
    found = map_bundle(bundle, clips, data, domain)
    choice = choose_gamma(found, bundle.processes)
    return choice, found, {"choice": asdict(choice), "map": found.to_dict()}


def store(name_or_path: str | os.PathLike[str], gamma: float) -> None:
    """Store γ "auto" in the description of a bundle: its ``kinetophone.json``, or its adapter."""
    from kinetophone.bundle.adapter import store_in_adapter
    from kinetophone.bundle.spec import BundleSpec

    spec = BundleSpec.read(name_or_path)
    assert spec.folder is not None
    if spec.file is None:
        replace(spec, auto_gamma=gamma).write(spec.folder)
    else:
        store_in_adapter(spec, auto_gamma=gamma)


def draw(results: dict[str, Any], path: Path) -> None:
    """Plot the map of both modalities, the paths of some γ across it, and the gain along each path.

    Args:
        results: the last result of :func:`find_gamma`, or its JSON.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure

    choice, found = results["choice"], results["map"]
    edges = np.array(found["levels"])
    figure = Figure(figsize=(13, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    u = np.linspace(1e-3, 1, 200)
    for axis, modality in zip(axes, MODALITIES, strict=False):
        error = np.array(found[modality]["coupled"])
        gain = error[:, -1:] - error
        # Rows are the noise level of the video, columns that of the audio.
        surface = 1000 * (gain.T if modality == "audio" else gain)
        shown = axis.pcolormesh(edges, edges, surface, shading="gouraud", cmap="viridis")
        figure.colorbar(shown, ax=axis, label="error reduction by the other modality, 1/1000")
        for gamma in (0.5, 1.0, 2.0):
            axis.plot(u, u**gamma, "w--", linewidth=0.8)
        axis.plot(u, u ** choice["gamma"], "r", linewidth=1.5, label=f"γ {choice['gamma']:.2f}")
        axis.set(
            title=f"gain of {modality} from the other modality",
            xlabel="audio noise level, t / T", ylabel="video noise level, t / T",
        )  # fmt: skip
        axis.legend()
    for modality in MODALITIES:
        axes[2].semilogx(choice["gammas"], choice["nats"][modality], marker=".", label=modality)
    total = np.add(choice["nats"]["audio"], choice["nats"]["video"])
    error = np.array(choice["behind_error"])
    axes[2].semilogx(choice["gammas"], total, "k", marker=".", label="both")
    axes[2].fill_between(choice["gammas"], total - error, total + error, color="k", alpha=0.15)
    axes[2].axvline(choice["gamma"], color="r")
    axes[2].set(title=f"gain along the path, {choice['clips']} clips", xlabel="γ", ylabel="nats per clip")
    axes[2].set_xticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"])
    axes[2].minorticks_off()
    axes[2].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
