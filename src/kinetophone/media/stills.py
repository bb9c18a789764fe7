"""Decoding frames and images for display: upright, in square pixels and SDR, transparency over black."""

from __future__ import annotations

import os
import warnings
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kinetophone.errors import MediaError, reason
from kinetophone.media.container import MOST_PIXELS, decoded, open_media, video_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL.Image import Image

# Formats that Pillow may read here. Others can run programs (EPS) or are not images.
_STILLS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "DIB", "TIFF", "JPEG2000")
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB")
# Brands of ISO still images. They can consist of tiles, which the video decoder would return separately.
_TILED = (b"avif", b"heic", b"heix", b"heim", b"heis", b"mif1")
_PQ, _HLG = 16, 18  # transfer characteristics, ITU-T H.273
_UNSPECIFIED = 2
_HD_LINES, _HD_COLUMNS = 720, 1280
_MOST_ASPECT = 10  # of a pixel; a larger ratio is an error in the file


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image, or the first frame of a video.

    Returns:
        uint8 (H, W, 3), rotated by its EXIF orientation; transparency is blended with black.

    Raises:
        FileNotFoundError: There is no such file.
        MediaError: The file is empty, corrupt, or not an image.
    """
    if Path(path).is_file() and (image := _read_still(path)) is not None:
        return image
    with open_media(path) as file:
        return next(iter(Images(path, file)))[0]


def is_tiled_still(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a still image of the ISO family (HEIC, AVIF)."""
    with Path(path).open("rb") as file:
        start = file.read(12)
    return start[4:8] == b"ftyp" and start[8:] in _TILED


class Images:
    """The frames of a video; iterate to get uint8 arrays (H, W, 3), each with its time in seconds or None.

    Args:
        path: The file, for error messages.
        file: The opened container.
    """

    def __init__(self, path: str | os.PathLike[str], file: Any) -> None:
        from av.video.reformatter import VideoReformatter

        self.path, self.file = path, file
        self.stream = video_stream(path, file)
        self._reformatter = VideoReformatter()
        self._turns: dict[float, _Turn] = {}

    def __iter__(self) -> Iterator[tuple[np.ndarray, Fraction | None]]:
        for frame, time in self.frames():
            yield self.image(frame), time

    def frames(self) -> Iterator[tuple[Any, Fraction | None]]:
        """Decoded frames, to pass to :meth:`image`, each with its time in seconds or None."""
        frame = None
        for frame in decoded(self.path, self.file, self.stream):
            if frame.width * frame.height > MOST_PIXELS:
                raise MediaError(_too_large(self.path, frame.width, frame.height))
            yield frame, frame.pts * frame.time_base if frame.pts is not None else None
        if frame is None:
            raise MediaError(f"'{self.path}' has a video stream without frames; it is truncated or corrupt")

    def size(self, frame: Any) -> tuple[int, int]:
        """(height, width) of the frame as displayed."""
        width, height = self._square(frame)
        return (width, height) if self._turn(frame)[0] else (height, width)

    def image(self, frame: Any) -> np.ndarray:
        """Convert a decoded frame for display, uint8 (H, W, 3)."""
        from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc, Interpolation

        # Without accurate rounding every frame comes out a level darker.
        scaling = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
        parts = frame.format.components
        alpha = any(part.is_alpha for part in parts) or frame.format.name == "pal8"
        options: dict[str, Any] = {"format": "rgba" if alpha else "rgb24", "interpolation": int(scaling)}
        width, height = self._square(frame)
        if width * height > MOST_PIXELS:
            raise MediaError(_too_large(self.path, width, height))
        options |= {"width": width, "height": height}
        large = frame.height >= _HD_LINES or frame.width >= _HD_COLUMNS
        if frame.colorspace == _UNSPECIFIED and large and not frame.format.is_rgb:
            options["src_colorspace"] = Colorspace.ITU709
        if frame.color_trc in (_PQ, _HLG):
            # Convert HDR to SDR; FFmpeg does the tone mapping.
            options |= {"dst_color_trc": ColorTrc.BT709, "dst_color_primaries": ColorPrimaries.BT709}
        image = self._reformatter.reformat(frame, **options).to_ndarray()
        return _turned(composite_over_black(image) if alpha else image, self._turn(frame))

    def _turn(self, frame: Any) -> _Turn:
        # Cached: PyAV's side data object keeps its frame in memory until it is garbage-collected.
        angle = frame.rotation
        if angle not in self._turns:
            self._turns[angle] = _read_turn(frame)
        return self._turns[angle]

    def _square(self, frame: Any) -> tuple[int, int]:
        """(width, height) of the frame in square pixels, before rotation."""
        aspect = self.stream.sample_aspect_ratio or self.stream.codec_context.sample_aspect_ratio
        if not aspect or not 1 / _MOST_ASPECT <= aspect <= _MOST_ASPECT:
            return frame.width, frame.height
        return max(1, round(frame.width * aspect)), frame.height


def _too_large(path: str | os.PathLike[str], width: int, height: int) -> str:
    most = MOST_PIXELS / 1e6
    return f"'{path}' has frames of {width} x {height} pixels; at most {most:.0f} million can be used"


# Whether to transpose, then whether to mirror the columns and the rows.
_Turn = tuple[bool, bool, bool]


def _read_turn(frame: Any) -> _Turn:
    """The rotation and mirroring that a frame's display matrix asks for."""
    from av.sidedata.sidedata import Type

    try:
        matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # the side data also has a type that PyAV does not know
        matrix = None
    if matrix is None:
        quarters = round(frame.rotation / 90) % 4  # counterclockwise
        return {
            0: (False, False, False),
            1: (True, False, True),
            2: (False, True, True),
            3: (True, True, False),
        }[quarters]
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    # x' = a x + c y and y' = b x + d y
    if max(abs(a), abs(d)) >= max(abs(b), abs(c)):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


def _turned(image: np.ndarray, turn: _Turn) -> np.ndarray:
    swapped, columns, rows = turn
    if swapped:
        image = image.transpose(1, 0, 2)
    if columns:
        image = image[:, ::-1]
    if rows:
        image = image[::-1]
    return np.ascontiguousarray(image)


def composite_over_black(image: np.ndarray) -> np.ndarray:
    """Blend RGBA, uint8 (H, W, 4), with black; returns uint8 (H, W, 3)."""
    alpha = image[..., 3:].astype(np.uint16)
    return ((image[..., :3] * alpha + 127) // 255).astype(np.uint8)


def pillow_pixels(image: Image) -> np.ndarray:
    """Pixels, uint8 (H, W, 3), of an image in one of the modes ``EIGHT_BITS``.

    The image is rotated by its EXIF orientation, and transparency is blended with black.
    """
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        return composite_over_black(np.asarray(image.convert("RGBA")))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _read_still(path: str | os.PathLike[str]) -> np.ndarray | None:
    """Read an image with Pillow, which handles tiles, animations and orientations; None if it can't."""
    import pillow_heif
    from PIL import Image, UnidentifiedImageError

    Image.init()
    pillow_heif.register_heif_opener()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the size, which is checked below, or about odd tags
            with Image.open(path, formats=_STILLS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise MediaError(_too_large(path, *image.size))
                if image.mode not in EIGHT_BITS:  # leave deeper images to the video decoder, which rounds
                    return None
                return pillow_pixels(image)
    except (UnidentifiedImageError, Image.DecompressionBombError):
        return None
    except MediaError:
        raise
    except Exception as error:  # on damaged files a plugin can raise any exception
        raise MediaError(f"'{path}' cannot be read as an image ({reason(error)}); it is corrupt") from error
