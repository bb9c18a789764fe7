"""Draw the figures of docs/how-it-works.md: docs/images/clocks.svg, cmc-pe.svg, sites.svg.

Run from the repository's root: .venv/bin/python docs/figures.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from diffusers import DDIMScheduler
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from kinetophone.av import AV
from kinetophone.coupling.settings import unet_sites
from kinetophone.diffusion.clocks import power_path
from kinetophone.diffusion.process import Discrete

IMAGES = Path(__file__).parent / "images"
AUDIO, VIDEO, GREY = "#1b7f3b", "#2b5c9e", "#8a8f98"


def draw_clocks() -> Figure:
    """The noise levels that are sampled, by the function that samples them."""
    process = Discrete.from_scheduler(DDIMScheduler(clip_sample=False))
    figure = _figure(9, 3)
    for axes, gamma in zip(figure.subplots(1, 3, sharey=True), (1.0, 1.5, 3.0), strict=True):
        path = power_path(AV.both(process), 25, gamma)
        axes.plot(path.audio.numpy(), ".-", color=AUDIO, label="audio")
        axes.plot(path.video.numpy(), ".-", color=VIDEO, label="video")
        axes.set(title=f"γ = {gamma:g}", xlabel="step")
    figure.axes[0].set_ylabel("noise level")
    figure.axes[0].legend(frameon=False)
    figure.tight_layout()
    return figure


def draw_cmc_pe() -> Figure:
    """A feature series, held over the frames, added to the tokens of each."""
    figure = _figure(9, 3.6)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 9), ylim=(0, 3.6))
    axes.axis("off")
    feature = np.abs(np.sin(np.arange(16) * 0.9)) * np.exp(-0.25 * (np.arange(16) % 6))
    for i, value in enumerate(feature):  # T' = 16 steps of the audio's feature
        axes.add_patch(_box(1.5 + 0.4 * i, 2.75, 0.36, 0.45, AUDIO, alpha=0.15 + 0.85 * value))
    for t in range(8):  # T = 8 frames
        held = feature[2 * t]
        axes.add_patch(_box(1.5 + 0.8 * t, 1.95, 0.7, 0.35, AUDIO, alpha=0.15 + 0.85 * held))
        axes.annotate("", (1.85 + 0.8 * t, 1.45), (1.85 + 0.8 * t, 1.9), arrowprops={"arrowstyle": "->"})
        axes.text(1.92 + 0.8 * t, 1.62, "+", fontsize=9)
        for row in range(2):
            for column in range(2):
                place = (1.52 + 0.8 * t + 0.34 * column, 0.72 + 0.34 * row)
                axes.add_patch(_box(*place, 0.3, 0.3, VIDEO, alpha=0.35))
    for y, text in {
        2.97: "feature of the\naudio, T' steps",
        2.12: "the same, held\nover T frames",
        1.05: "tokens of\neach frame",
        0.3: "self-attention within each frame: where to look now depends on what is heard now",
    }.items():
        axes.text(0.1 if y > 0.5 else 1.5, y, text, va="center", fontsize=9)
    return figure


def draw_sites() -> Figure:
    """Both U-Nets with their sites, from the function that places them."""
    figure = _figure(9, 4.4)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 9), ylim=(0, 4.4))
    axes.axis("off")
    widths, flags = (320, 640, 1280, 1280), (False, False, True, True)
    for modality, base, colour, other in (("video", 2.6, VIDEO, AUDIO), ("audio", 0.35, AUDIO, VIDEO)):
        conditioned = {site.path for site in unet_sites(modality, widths, flags)}
        names = [("down", i) for i in range(4)] + [("mid", 0)] + [("up", i) for i in range(4)]
        for place, (stage, index) in enumerate(names):
            depth = min(place, 8 - place)
            left, height = 2.6 + 0.66 * place, 1.3 - 0.22 * depth
            axes.add_patch(_box(left, base + 0.11 * depth, 0.5, height, colour, alpha=0.35))
            label = "mid" if stage == "mid" else f"{stage}\n{index}"
            axes.text(left + 0.25, base + 0.65, label, ha="center", va="center", fontsize=8)
            if f"{stage}_blocks.{index}" in conditioned:
                axes.add_patch(_box(left + 0.51, base + 0.3, 0.12, 0.7, other, alpha=1.0))
        axes.text(8.65, base + 0.65, "ε", ha="center", va="center", fontsize=12)
        axes.add_patch(_box(0.15, base + 0.35, 1.0, 0.6, colour, alpha=0.15))
        latent = {"video": "noisy latents\nof the video", "audio": "noisy latents\nof the audio"}[modality]
        axes.text(0.65, base + 0.65, latent, ha="center", va="center", fontsize=7)
        axes.annotate("", (2.55, base + 0.65), (1.2, base + 0.65), arrowprops={"arrowstyle": "->"})
    for x, colour, latent_y, foot, target in (
        (0.65, VIDEO, 2.95, (1.05, 2.1), (2.75, 1.7)),
        (1.75, AUDIO, 1.3, (2.15, 2.2), (2.75, 2.62)),
    ):
        axes.add_patch(_box(x - 0.38, 2.0, 0.76, 0.35, colour, alpha=0.6))
        axes.text(x, 2.17, "connector", ha="center", va="center", fontsize=8, color="white")
        start = (x, latent_y) if colour == VIDEO else (1.15, latent_y)
        end = (x, 2.37 if colour == VIDEO else 1.98)
        look = {"arrowstyle": "->", "color": colour, "linewidth": 1.5}
        axes.annotate("", end, start, arrowprops=look)
        axes.annotate("", target, foot, arrowprops=look)
    axes.text(
        5.6, 2.17, "bars: inserted blocks, conditioned by the feature of their colour",
        ha="center", va="center", fontsize=8, color=GREY,
    )  # fmt: skip
    return figure


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    return figure


def _box(x: float, y: float, width: float, height: float, colour: str, **look: Any) -> FancyBboxPatch:
    return FancyBboxPatch(
        (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.03", color=colour, **look
    )


def main() -> None:
    """Write the files; the same code gives the same bytes."""
    mpl.rcParams.update({"svg.hashsalt": "kinetophone", "svg.fonttype": "none", "font.family": "sans-serif"})
    for name, draw in {"clocks": draw_clocks, "cmc-pe": draw_cmc_pe, "sites": draw_sites}.items():
        draw().savefig(IMAGES / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
