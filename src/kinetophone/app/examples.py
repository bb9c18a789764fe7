"""Examples on the page: prompts, and small files rendered from the ``hits`` data set."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from kinetophone.hits import FPS, SAMPLE_RATE, make_clip
from kinetophone.media.clip import Clip
from kinetophone.media.write import write_wav

PROMPTS = (
    "a drumstick hits a metal bowl three times",
    "a hammer hits a wooden box twice slowly",
    "a mallet hits a green glass bottle four times",
    "a drumstick hits a red drum fast",
)
_CLIPS = (0, 3)  # indices in the split "val"


def write_examples(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Render the example files.

    Returns:
        Pairs of file and prompt, by the kind of input that a task takes ("video", "audio", "clip", "image").
    """
    examples: dict[str, list[tuple[str, str]]] = {"video": [], "audio": [], "clip": [], "image": []}
    for number, index in enumerate(_CLIPS, start=1):
        made = make_clip("val", index)
        clip = Clip(video=made.video, fps=FPS, audio=made.audio, sample_rate=SAMPLE_RATE)
        video_file = clip.save(folder / f"hits-{number}.mp4")
        audio = write_wav(clip.audio, clip.sample_rate, folder / f"hits-{number}.wav")
        image = folder / f"hits-{number}.png"
        Image.fromarray(made.video[0]).save(image)
        for kind, file in {"video": video_file, "audio": audio, "clip": video_file, "image": image}.items():
            examples[kind].append((str(file), made.caption))
    return examples
