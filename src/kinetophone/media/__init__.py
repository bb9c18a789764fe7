"""Clips: their time, the pair of picture and sound, and the files they are read from and written to.

Importing this package needs NumPy only; the codecs (PyAV), the plots (matplotlib) and the resizer
(OpenCV) are imported by the functions that use them, so training code stays light.
"""

from kinetophone.errors import MediaError
from kinetophone.media.clip import Clip
from kinetophone.media.timing import ClipTime, as_fps

__all__ = ["Clip", "ClipTime", "MediaError", "as_fps"]
