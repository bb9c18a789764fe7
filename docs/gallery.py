"""Make the gallery: clips by the shipped bundle, seeds 0 to 7.

Writes docs/gallery.md, docs/clips/*.mp4, and clip.png, gallery.png and clips.webp in docs/images/.
Run from the repository's root: .venv/bin/python docs/gallery.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from kinetophone import Clip, Kinetophone
from kinetophone.media.onsets import onsets_from_audio
from kinetophone.metrics.alignment import event_f1
from kinetophone.metrics.detectors import strikes_from_video

DOCS = Path(__file__).parent
IMAGES, CLIPS = DOCS / "images", DOCS / "clips"
PROMPTS = (
    "a drumstick hits a metal bowl three times",
    "a hammer hits a brown wooden block twice slowly",
    "a mallet hits a green glass bottle four times",
    "a drumstick hits a red drum fast",
    "a mallet taps a yellow cushion two times",
    "a drumstick bangs a golden metal pot once",
    "someone hits a white snare drum with a hammer three times",
    "a hammer strikes a pale wooden box four times",
)


_HEAD = """# Gallery

These clips were made by the bundle that ships, with `docs/gallery.py`: eight prompts, seeds 0 to 7, none left
out. They have 64 x 64 pixels and are shown larger. The F1 compares strikes seen with onsets heard, within one
frame; the [results](results.md) have its chance level. Turn the sound on.
"""


def main() -> None:
    """Generate, save each clip, and draw and list them."""
    pipe = Kinetophone.from_pretrained("hits")
    clips = pipe(PROMPTS, seed=0, progress=True)
    for folder in (IMAGES, CLIPS):
        folder.mkdir(parents=True, exist_ok=True)
    clips[0].sheet(IMAGES / "clip.png", title=PROMPTS[0])
    draw(clips)
    animate(clips[:4])
    page = [_HEAD]
    for seed, (clip, prompt) in enumerate(zip(clips, PROMPTS, strict=True)):
        clip.save(CLIPS / f"{seed}.mp4")
        page.append(entry(seed, prompt, clip))
    (DOCS / "gallery.md").write_text("\n".join(page), encoding="utf-8")


def entry(seed: int, prompt: str, clip: Clip) -> str:
    """One clip of the page: heading, film, command, score."""
    onsets = onsets_from_audio(clip.audio, clip.sample_rate)
    found = event_f1(onsets, strikes_from_video(clip.video, clip.fps), clip.time.frame_s)
    return f"""## {prompt.capitalize()}

<video controls loop preload="metadata" width="256" height="256" src="clips/{seed}.mp4"></video>

```sh
kinetophone generate "{prompt}" --seed {seed} -o {seed}.mp4
```

Event F1 {found.f1:.2f}: {found.hits} matches of {found.predicted} onsets and {found.true} strikes.
"""


def draw(clips: Sequence[Clip]) -> None:
    """Each clip as every second frame over its waveform."""
    figure = Figure(figsize=(14, 1.75 * len(clips)), dpi=90)
    FigureCanvasAgg(figure)
    rows = figure.subplots(2 * len(clips), 1, height_ratios=[2, 1] * len(clips))
    for clip, prompt, strip, wave in zip(clips, PROMPTS, rows[::2], rows[1::2], strict=True):
        seconds = clip.time.duration_s
        strip.imshow(
            np.concatenate(list(clip.video[::2]), axis=1), extent=(0, float(seconds), 0, 1), aspect="auto"
        )
        strip.set_title(prompt, fontsize=9, loc="left", pad=2)
        strip.axis("off")
        times = np.arange(len(clip.audio)) / clip.sample_rate
        wave.plot(times, clip.audio, lw=0.4, color="#345")
        for strike in strikes_from_video(clip.video, clip.fps):
            wave.axvline(strike, color="#c33", lw=1)
        for onset in onsets_from_audio(clip.audio, clip.sample_rate):
            wave.axvline(onset, color="#2a6", lw=1, ls="--")
        wave.set(xlim=(0, float(seconds)), yticks=[], xticks=[])
        for side in wave.spines.values():
            side.set_visible(False)
    rows[-1].set_xlabel("time; red: strikes seen, green dashed: onsets heard", fontsize=9)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.98, bottom=0.02, hspace=0.25)
    figure.savefig(IMAGES / "gallery.png")


def animate(clips: Sequence[Clip], side: int = 192, height: int = 48) -> None:
    """Clips side by side over their waveforms, with a moving line, for pages that cannot play a video."""
    images = []
    for number in range(len(clips[0].video)):
        columns = []
        for clip in clips:
            frame = Image.fromarray(clip.video[number]).resize((side, side), Image.Resampling.BICUBIC)
            wave = np.full((height, side, 3), 255, np.uint8)
            parts = np.array_split(np.abs(clip.audio) / max(1e-9, float(np.abs(clip.audio).max())), side)
            for x, part in enumerate(parts):
                half = round((height // 2 - 1) * float(part.max()))
                wave[height // 2 - half : height // 2 + half + 1, x] = (51, 68, 85)
            wave[:, min(side - 1, round((number + 0.5) / len(clip.video) * side))] = (204, 51, 51)
            columns.append(np.concatenate([np.asarray(frame), wave]))
        images.append(Image.fromarray(np.concatenate(columns, axis=1)))
    duration = round(1000 * clips[0].time.frame_s)
    images[0].save(
        IMAGES / "clips.webp", save_all=True, append_images=images[1:], duration=duration, loop=0, quality=75
    )


if __name__ == "__main__":
    main()
