"""Conversion of images in any supported form to uint8 RGB."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from kinetophone.errors import RequestError
from kinetophone.media.stills import EIGHT_BITS, composite_over_black, pillow_pixels, read_image


def as_image(image: Any) -> np.ndarray:
    """Convert an image to RGB, uint8 (H, W, 3).

    Args:
        image: A file, a PIL image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8 or of
            floats from 0 to 1. Transparency is blended with black.

    Returns:
        A contiguous uint8 array (H, W, 3).

    Raises:
        FileNotFoundError: There is no such file.
        MediaError: The file is not an image.
        RequestError: The array has another shape, type or range.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(image)
    if not isinstance(image, np.ndarray) and hasattr(image, "convert"):
        if image.mode not in EIGHT_BITS:
            raise RequestError(
                [f"the image has the mode {image.mode}; convert it to RGB, or save it and give the file"]
            )
        return pillow_pixels(image)
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise RequestError([f"the image has shape {np.shape(image)}; it must be (height, width, 1, 3 or 4)"])
    if pixels.dtype != np.uint8:
        pixels = _from_floats(pixels)
    if pixels.shape[2] == 4:
        pixels = composite_over_black(pixels)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _from_floats(pixels: np.ndarray) -> np.ndarray:
    if not np.issubdtype(pixels.dtype, np.floating):
        raise RequestError([f"the image is {pixels.dtype}; it must be uint8, or floats from 0 to 1"])
    # "not (in range)" also catches NaN.
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise RequestError(
            [f"the image has values from {pixels.min():g} to {pixels.max():g}; floats must be 0 to 1"]
        )
    return np.round(pixels * 255).astype(np.uint8)
