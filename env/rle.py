"""Masks as COCO run-length encoding (compressed, column-major), written by pycocotools and read with every check.

We read masks with code of our own, because data sets and stores are not trusted: pycocotools 2.0 returns uninitialised
memory if the counts fall short of the size, and crashes the process on huge sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco

from env.errors import DataError
from env.types import MAX_PIXELS, RLE

_MAX_CHARS = 6  # of one run: 30 bits


def encode(mask_HW: np.ndarray) -> RLE:
    """Return the RLE of a bool mask [H, W], with `counts` as str."""
    rle: Any = coco.encode(np.asfortranarray(mask_HW, np.uint8))  # counts are bytes; the stubs omit it
    height, width = mask_HW.shape
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def decode(rle: RLE, where: str = "mask") -> np.ndarray:
    """Return the bool mask [H, W] of an RLE. DataError, naming `where`, unless its runs fill its size exactly."""
    height, width = _size(rle, where)
    runs = _filling_runs(rle, where)
    values = np.arange(len(runs)) % 2 == 1  # runs alternate, starting with background
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def check(rle: RLE, where: str = "mask") -> None:
    """Raise DataError, naming `where`, unless the runs of an RLE fill its size exactly. No pixel is allocated."""
    _filling_runs(rle, where)


def mask_or_empty(rle: RLE | None, height: int, width: int) -> np.ndarray:
    """Return the bool mask [H, W] of an RLE.

    Args:
        rle: The mask; None is an empty one.
        height: Pixels of the empty mask.
        width: Pixels of the empty mask.
    """
    return np.zeros((height, width), bool) if rle is None else decode(rle)


def decode_tracklet(rles: Sequence[RLE | None], size: tuple[int, int], where: str = "tracklet") -> np.ndarray:
    """Return the masks of a tracklet.

    Args:
        rles: One mask per frame; None is an empty one.
        size: (height, width) in pixels.
        where: Names the tracklet in errors.

    Returns:
        bool [T, H, W].

    Raises:
        DataError: A mask is damaged or has another size.
    """
    masks_THW = np.zeros((len(rles), *size), bool)
    for frame_idx, rle in enumerate(rles):
        if rle is not None:
            mask_HW = decode(rle, f"{where}, frame {frame_idx}")
            if mask_HW.shape != size:
                expected, found = " x ".join(map(str, size)), " x ".join(map(str, mask_HW.shape))
                raise DataError(f"{where}, frame {frame_idx}", f"expected a mask of {expected} pixels, found {found}")
            masks_THW[frame_idx] = mask_HW
    return masks_THW


def union(rles: Sequence[RLE | None], where: str = "mask") -> RLE | None:
    """Return the RLE of all pixels that any mask sets; None if there is no mask. DataError if the sizes differ."""
    present = [rle for rle in rles if rle is not None]
    if not present:
        return None
    sizes = {_size(rle, where) for rle in present}
    if len(sizes) > 1:
        raise DataError(where, f"expected masks of one size, found {sorted(sizes)}")
    for rle in present:
        _filling_runs(rle, where)  # raises where pycocotools would read past the runs
    height, width = sizes.pop()
    merged: Any = coco.merge([{"size": [height, width], "counts": rle["counts"].encode("ascii")} for rle in present])
    return {"size": [height, width], "counts": merged["counts"].decode("ascii")}


def is_empty(rle: RLE | None) -> bool:
    """Return whether no pixel is set. None is empty. Most masks are decided by the first run of set pixels."""
    if rle is None:
        return True
    counts = rle["counts"]
    second = next((at + 1 for at, char in enumerate(counts) if ord(char) - 48 < 32), 0)
    if second and counts[second : second + 1] not in ("", "0"):
        return False
    return not _runs(rle, "mask")[1::2].any()


def _size(rle: RLE, where: str) -> tuple[int, int]:
    size = rle.get("size")
    if not isinstance(size, list | tuple) or len(size) != 2 or any(type(side) is not int for side in size):
        raise DataError(where, f"expected `size` as [height, width], found {size!r}")
    height, width = size
    if min(size) < 1 or height * width > MAX_PIXELS:
        raise DataError(where, f"expected a size of 1 to {MAX_PIXELS} pixels, found {height} x {width}")
    return height, width


def _filling_runs(rle: RLE, where: str) -> np.ndarray:
    """Return the lengths of the runs; DataError unless they fill the size exactly."""
    height, width = _size(rle, where)
    runs = _runs(rle, where)
    # Each run is checked by itself, because the sum of many huge ones may wrap around.
    if runs.min() < 0 or runs.max() > height * width or int(runs.sum()) != height * width:
        raise DataError(where, f"expected runs that fill {height} x {width} pixels, found {int(runs.sum())} pixels")
    return runs


def _runs(rle: RLE, where: str) -> np.ndarray:
    """Return the lengths of the runs, whatever they sum to; DataError if the string is not COCO's.

    Five bits a character, low bits first; from the fourth run on, differences to the run before the last (pycocotools
    `rleFrString`).
    """
    counts = rle.get("counts")
    if not isinstance(counts, str) or not counts.isascii():
        raise DataError(where, f"expected `counts` as a compressed ASCII string, found {type(counts).__name__}")
    digits = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    if len(digits) == 0 or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        raise DataError(where, "`counts` is not a compressed COCO run-length string")
    ends = np.flatnonzero(digits & 32 == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _MAX_CHARS:
        raise DataError(where, f"`counts` holds a run of {lengths.max()} characters, expected at most {_MAX_CHARS}")
    shifts = 5 * (np.arange(len(digits)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((digits & 31) << shifts, starts)
    runs -= np.where(digits[ends] & 16, 1 << (5 * lengths), 0)  # the sign bit
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs
