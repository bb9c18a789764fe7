"""kinetophone: sounding video, with audio and video generated together and in sync.

    from kinetophone import Kinetophone

    pipe = Kinetophone.from_pretrained("hits")
    clip = pipe("a drumstick hits a metal bowl three times", seed=0)[0]
    clip.save("bowl.mp4")

Importing the package is cheap: each name below is imported on first use, and so is torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kinetophone.av import AV
    from kinetophone.errors import UnknownWordsWarning
    from kinetophone.media import Clip
    from kinetophone.pipeline import Kinetophone

__version__ = "0.1.0"
__all__ = ["AV", "Clip", "Kinetophone", "UnknownWordsWarning", "__version__"]

_HOME = {
    "AV": "kinetophone.av",
    "Clip": "kinetophone.media",
    "Kinetophone": "kinetophone.pipeline",
    "UnknownWordsWarning": "kinetophone.errors",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        if name == "Kinetophone":
            from kinetophone.progress import bar_class

            bar_class()  # must come before other libraries import tqdm, which may warn in a notebook
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'kinetophone' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
