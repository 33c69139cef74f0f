"""Overlap and contour match of two masks, packed 64 pixels to a word, from which J and F are computed.

A contour is thin and an image is large, so that with a byte per pixel most of the time would go into moving zeros. The
box around both masks becomes one line of words: row after row, one mask behind the other. Each row and each mask is
followed by as many unset bits and rows as a dilation may reach. An operation then runs over the whole line at once, and
bits that a shift carries beyond the end of a row or a mask do no harm.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

WORD = 64


class MaskPair:
    """Two bool masks [H, W] of one shape, which are compared within `radius` pixels."""

    def __init__(self, a_HW: np.ndarray, b_HW: np.ndarray, radius: int):
        packed_2HS = _pack(a_HW, b_HW)
        rows, words = _box(packed_2HS[0] | packed_2HS[1])
        self._radius = radius
        self._height, num_words = rows.stop - rows.start, words.stop - words.start
        self._stride = num_words + 1 + radius // WORD
        boxed = np.zeros((2, self._height + radius, self._stride), np.uint64)
        boxed[:, : self._height, :num_words] = packed_2HS[:, rows, words]
        self._line = boxed.reshape(-1)
        # Columns with a right neighbour: all of the box but the last of the image.
        self._inner = min(a_HW.shape[1] - WORD * words.start - 1, WORD * num_words)

    def overlap(self) -> tuple[int, int]:
        """Return the number of pixels of the intersection and of the union."""
        a, b = self._line.reshape(2, -1)
        return _count(a & b), _count(a | b)

    def match_contours(self) -> tuple[int, int, int, int]:
        """Return the numbers of contour pixels: (of a, of b, of a near one of b, of b near one of a), within `radius`.

        Distances are Euclidean between pixel centres. A contour holds the pixels that differ from their right, lower or
        lower right neighbour, where there is one.
        """
        contours = self._contours()
        a, b = contours.reshape(2, -1)
        num_a, num_b = _count(a), _count(b)
        if num_a == 0 or num_b == 0:
            return num_a, num_b, 0, 0
        near_a, near_b = _dilate(contours, self._stride, self._radius).reshape(2, -1)
        return num_a, num_b, _count(a & near_b), _count(b & near_a)

    def _contours(self) -> np.ndarray:
        line, stride = self._line, self._stride
        right = line >> np.uint64(1)
        _add(right[:-1], line[1:] << np.uint64(WORD - 1))
        across = line ^ right
        found = across.copy()
        _add(found[:-stride], line[:-stride] ^ right[stride:])
        across_2HS, found_2HS = across.reshape(2, -1, stride), found.reshape(2, -1, stride)
        inner = _below(self._inner, stride)
        found_2HS &= inner
        _add(found[:-stride], line[:-stride] ^ line[stride:])
        last = self._height - 1  # has no row below it, or is empty
        found_2HS[:, last] = across_2HS[:, last] & inner
        found_2HS[:, last + 1 :] = 0
        return found


def _pack(a_HW: np.ndarray, b_HW: np.ndarray) -> np.ndarray:
    """Pack into uint64 [2, H, words]; pixel x of a row is bit x % 64 of its word x // 64."""
    height, width = a_HW.shape
    packed = np.zeros((2, height, -(-width // WORD) * 8), np.uint8)
    for at, mask_HW in enumerate((a_HW, b_HW)):
        packed[at, :, : -(-width // 8)] = np.packbits(mask_HW, axis=1, bitorder="little")
    return packed.view("<u8")


def _box(either_HS: np.ndarray) -> tuple[slice, slice]:
    """Return the rows and words with the contours of masks with this union, one pixel to the upper left included.

    One row below is included too, where there is one, so that the last row of a mask has its neighbours.
    """
    rows, words = (np.bitwise_or.reduce(either_HS, axis) for axis in (1, 0))
    (used,), (wide,) = rows.nonzero(), words.nonzero()
    if len(used) == 0:
        return slice(0, 1), slice(0, 1)
    left = wide[0] - int(wide[0] > 0 and bool(words[wide[0]] & np.uint64(1)))
    return slice(max(0, int(used[0]) - 1), min(len(rows), int(used[-1]) + 2)), slice(int(left), int(wide[-1]) + 1)


def _dilate(line: np.ndarray, stride: int, radius: int) -> np.ndarray:
    """Set all pixels within `radius` of a set one: each row of the disk adds the line, widened and shifted."""
    wide, half_width = line, 0
    reached = np.zeros_like(line)
    for wanted, offsets in _disk_rows(radius):
        while half_width < wanted:
            # Widening by up to twice the present width leaves no gaps.
            step = min(wanted - half_width, 2 * half_width + 1, WORD - 1)
            wide, half_width = _widen(wide, step), half_width + step
        for shift in (offset * stride for offset in offsets):
            _add(reached[shift:], wide[: len(wide) - shift])
            if shift:
                _add(reached[:-shift], wide[shift:])
    return reached


def _widen(line: np.ndarray, step: int) -> np.ndarray:
    """Set the bits `step` to the left and to the right of each set bit too."""
    near, far = np.uint64(step), np.uint64(WORD - step)
    out, shifted = line << near, line >> near
    _add(out, shifted)
    _add(out, line)
    np.right_shift(line, far, out=shifted)
    _add(out[1:], shifted[:-1])
    np.left_shift(line, far, out=shifted)
    _add(out[:-1], shifted[1:])
    return out


def _add(target: np.ndarray, bits: np.ndarray) -> None:
    np.bitwise_or(target, bits, out=target)  # `|=` on a slice would copy the result once more


def _count(words: np.ndarray) -> int:
    return int(np.add.reduce(np.bitwise_count(words), dtype=np.int64))


@lru_cache
def _below(width: int, stride: int) -> np.ndarray:
    """Return one row of words with the first `width` bits set."""
    bits = np.arange(stride * WORD) < width
    return np.packbits(bits, bitorder="little").view("<u8")


@lru_cache
def _disk_rows(radius: int) -> list[tuple[int, tuple[int, ...]]]:
    """Return (half width, distances from the centre of the rows with that width) of a disk, narrow rows first."""
    rows: dict[int, list[int]] = {}
    for offset in range(radius + 1):
        rows.setdefault(math.isqrt(radius**2 - offset**2), []).append(offset)
    return sorted((half_width, tuple(offsets)) for half_width, offsets in rows.items())
