"""Clips in memory, their timing, and reading and writing media files.

Importing this package needs NumPy only. PyAV, matplotlib and OpenCV are imported by the functions that use
them, so training code stays light.
"""

from kinetophone.errors import MediaError
from kinetophone.media.clip import Clip
from kinetophone.media.timing import ClipTime, as_fps

__all__ = ["Clip", "ClipTime", "MediaError", "as_fps"]
