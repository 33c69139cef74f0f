"""Read one JPEG or PNG as RGB, upright. It knows nothing of videos or data roots.

What a frame costs is bounded before anything is decoded: bytes, pixels, and the scans of a JPEG.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from env.errors import DataError
from env.media.regular_file import read_regular

MAX_FRAME_PIXELS = 8192 * 8192
MAX_BYTES = 8 * MAX_FRAME_PIXELS  # four channels of 16 bits
MAX_SCANS = 100  # of a JPEG; encoders write about ten. Every scan goes over all pixels once more.
_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Raised by Pillow for damaged files, and by its EXIF reader.
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
_EXIF_ERRORS = (struct.error, KeyError, TypeError)


def read_image(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Return a JPEG or PNG as uint8 RGB [H,W,3], turned as its EXIF orientation asks.

    Grey images, palettes and CMYK are converted as Pillow does it, and of 16 bits the upper 8 are taken.

    Args:
        path: Of the file.
        size: Expected (width, height) in pixels of the upright image; None takes any.

    Raises:
        DataError: The file is missing, damaged, too large or of another size, or has transparent pixels.
    """
    with open_image(path) as image:
        turn = _turn(image)
        found = _upright_size(image, turn)
        if size is not None and found != size:
            turned = " after the rotation that its EXIF asks for" if turn is not None else ""
            raise DataError(
                str(path), f"frame is {found[0]}x{found[1]}{turned}, expected {size[0]}x{size[1]} like its video"
            )
        rgb = _rgb(image, path)
        return np.array(rgb if turn is None else rgb.transpose(turn))


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) of the upright image in pixels. DataError if there is no JPEG or PNG."""
    with open_image(path) as image:
        return _upright_size(image, _turn(image))


@contextmanager
def open_image(path: Path, formats: tuple[str, ...] = ("JPEG", "PNG")) -> Iterator[Image.Image]:
    """Open an image of bounded cost, not yet decoded. DataError where the file fails, later in the block too."""
    try:
        data = read_regular(path, MAX_BYTES)
        # In pixel data FF is never followed by DA. Previews in the header add a few.
        scans = data.count(b"\xff\xda") if data.startswith(b"\xff\xd8") else 0
        if scans > MAX_SCANS:
            raise DataError(str(path), f"expected a JPEG of at most {MAX_SCANS} scans, found {scans}")
        with Image.open(io.BytesIO(data), formats=formats) as image:
            check_pixels(path, image.width, image.height)
            yield image
    except FileNotFoundError as error:
        raise DataError(str(path), "the file is missing") from error
    except _PILLOW_ERRORS as error:
        kind = " or ".join(formats)
        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = f"expected a {kind}, found something else"
        raise DataError(str(path), f"cannot be decoded as {kind} ({reason}); is the file complete?") from error


def check_pixels(path: Path, width: int, height: int) -> None:
    """Raise a DataError unless a frame has 1 to `MAX_FRAME_PIXELS` pixels."""
    if width < 1 or height < 1 or width * height > MAX_FRAME_PIXELS:
        raise DataError(str(path), f"frames are {width}x{height}, expected 1 to {MAX_FRAME_PIXELS} pixels")


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return what turns the image upright; None if it stands upright, or the orientation is none of EXIF's."""
    try:
        return _TURNS.get(image.getexif().get(_EXIF_ORIENTATION, 1))
    except _EXIF_ERRORS as error:
        raise ValueError(f"its EXIF is damaged: {error}") from error


def _upright_size(image: Image.Image, turn: Image.Transpose | None) -> tuple[int, int]:
    lies = turn in (_TURNS[5], _TURNS[6], _TURNS[7], _TURNS[8])
    return (image.height, image.width) if lies else (image.width, image.height)


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    """Return the image as RGB. DataError where a pixel is transparent: its colour depends on what lies behind it."""
    is_deep = image.mode.startswith("I")  # 16 bits of grey
    if image.has_transparency_data and (is_deep or image.convert("RGBA").getchannel("A").getextrema() != (255, 255)):
        raise DataError(str(path), "expected opaque pixels, found transparent ones; lay the frame on a background")
    if is_deep:  # Pillow's `convert` would clip at 255
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
