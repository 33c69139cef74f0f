"""Turn and mirror the frames of a video as its file asks players to do; phones record sideways."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from env.errors import DataError

_SLIGHT = 0.02  # parts of an entry that do not count: about one degree


def upright(frame: Any, path: Path) -> np.ndarray:
    """Return a decoded frame of PyAV as uint8 RGB [H,W,3], rotated and mirrored by its display matrix.

    Args:
        frame: `av.VideoFrame`.
        path: Of the video, for errors.

    Raises:
        DataError: The matrix asks for another angle than a quarter turn.
    """
    pixels_HWC = frame.to_ndarray(format="rgb24")
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return pixels_HWC if matrix is None else turned(pixels_HWC, struct.unpack("=9i", bytes(matrix)), path)


def turned(pixels_HWC: np.ndarray, matrix: tuple[int, ...], path: Path) -> np.ndarray:
    """Return the pixels after a display matrix, without its scale.

    Args:
        pixels_HWC: The stored frame.
        matrix: Nine numbers (a, b, u, c, d, v, x, y, w): a stored point (p, q) is shown at (a p + c q, b p + d q), with
            rows counted downwards (ISO/IEC 14496-12, 6.2.2).
        path: Of the video, for errors.

    Raises:
        DataError: The matrix asks for another angle than a quarter turn.
    """
    a, b, _, c, d, *_ = matrix
    straight, crossed = min(abs(a), abs(d)), min(abs(b), abs(c))
    if straight and max(abs(b), abs(c)) <= _SLIGHT * straight:
        rows, columns, shown_HWC = d, a, pixels_HWC
    elif crossed and max(abs(a), abs(d)) <= _SLIGHT * crossed:
        rows, columns, shown_HWC = b, c, pixels_HWC.transpose(1, 0, 2)
    else:
        raise DataError(
            str(path),
            f"expected a rotation by quarter turns, found the display matrix {(a, b, c, d)}; encode it upright",
        )
    return np.ascontiguousarray(shown_HWC[:: 1 if rows > 0 else -1, :: 1 if columns > 0 else -1])
