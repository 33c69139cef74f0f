"""Derive facts about objects from their masks: presence, motion, size, and position relative to each other.

All functions are pure. They take masks ([T] COCO RLEs, None where the object is absent) and source frame indices.
Distances are fractions of the frame's width or height. Where the masks are not clear, a function returns None.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.ndimage import binary_dilation

from cot_data.traces.visibility import reaches_border
from env.rle import decode
from env.types import RLE

Masks = Sequence[RLE | None]
MAX_STILL_SHIFT = 0.03  # farthest that the centre of a still object moves from its first position
MIN_SHIFT = 0.08  # smallest shift along x or y that counts as motion
MIN_SIDE_OFFSET = 0.06  # between two centres, for one to lie left of or above the other
MIN_GROWTH = 1.5  # ratio of areas from which a change of size is reported
MAX_GAP = 0.01  # of the frame's width: objects at most this far apart touch
MIN_DIRECTNESS = 0.7  # distance between the ends of a path over its length, for one direction
STILL_WORD = "almost still"


@dataclass(frozen=True)
class Change:
    """An object comes into view, or goes out of it, between two consecutive shown frames."""

    is_entry: bool
    before: int
    after: int


def changes(seen: Collection[int], shown: Collection[int]) -> list[Change]:
    """Return every change of an object that is visible in `seen`, among the frames `shown`.

    `changes({4, 8}, [0, 4, 8, 12])` is `[Change(True, 0, 4), Change(False, 8, 12)]`.
    """
    return [Change(b in seen, a, b) for a, b in pairwise(sorted(shown)) if (a in seen) != (b in seen)]


@dataclass(frozen=True)
class Motion:
    """A motion in one direction between two frames: "to the right and down", "almost still"."""

    direction: str
    first: int
    last: int


def motions(masks: Masks, seen: Sequence[int]) -> list[Motion]:
    """Return how the centre moves over the frames `seen`: one straight motion, or two, one after the other.

    Empty with fewer than two frames, or where the path is neither.
    """
    whole = _straight_motion(masks, seen)
    if whole or len(seen) < 3:
        return [whole] if whole else []
    path_S2 = np.array([center(masks, t) for t in seen])
    away_S = np.hypot(*(path_S2 - path_S2[0]).T) + np.hypot(*(path_S2 - path_S2[-1]).T)
    bend = int(away_S.argmax())
    parts = [_straight_motion(masks, seen[: bend + 1]), _straight_motion(masks, seen[bend:])]
    return [part for part in parts if part] if all(parts) else []


def _straight_motion(masks: Masks, seen: Sequence[int]) -> Motion | None:
    """The motion over `seen` if it has one direction or the object is almost still; else None."""
    if len(seen) < 2:
        return None
    path_S2 = np.array([center(masks, t) for t in seen])
    dx, dy = (float(each) for each in path_S2[-1] - path_S2[0])
    if np.abs(path_S2 - path_S2[0]).max() <= MAX_STILL_SHIFT:
        return Motion(STILL_WORD, seen[0], seen[-1])
    length = float(np.hypot(*np.diff(path_S2, axis=0).T).sum())
    words = []
    if abs(dx) >= max(MIN_SHIFT, abs(dy) / 3):
        words.append("to the right" if dx > 0 else "to the left")
    if abs(dy) >= max(MIN_SHIFT, abs(dx) / 3):
        words.append("down" if dy > 0 else "up")
    is_direct = np.hypot(dx, dy) >= MIN_DIRECTNESS * length
    return Motion(" and ".join(words), seen[0], seen[-1]) if words and is_direct else None


def growth(masks: Masks, first: int, last: int) -> str | None:
    """Return "larger" or "smaller" for the change of area between two frames; None below a ratio of `MIN_GROWTH`.

    Args:
        masks: [T] RLEs of the object.
        first: index of a frame that shows it.
        last: index of a later frame that shows it.

    Returns:
        "larger", "smaller" or None.
    """
    ratio = area(masks, last) / area(masks, first)
    return "larger" if ratio >= MIN_GROWTH else "smaller" if ratio <= 1 / MIN_GROWTH else None


def percent(masks: Masks, frame_idx: int) -> int:
    """Return the object's area in percent of the frame, rounded, at least 1."""
    return max(1, round(100 * area(masks, frame_idx) / mask_of(masks, frame_idx).size))


def is_cut(masks: Masks, frame_idx: int) -> bool:
    """Return whether the object reaches the frame's border."""
    return reaches_border(mask_of(masks, frame_idx))


def side(masks: Masks, other: Masks, frame_idx: int) -> str | None:
    """Return on which side of `other` an object lies: along x or y, whichever offset is larger.

    Args:
        masks: [T] RLEs of the object.
        other: [T] RLEs of the second object.
        frame_idx: a frame that shows both.

    Returns:
        "to the left of", "to the right of", "above", "below", or None below an offset of `MIN_SIDE_OFFSET`.
    """
    dx, dy = np.subtract(center(masks, frame_idx), center(other, frame_idx))
    if max(abs(dx), abs(dy)) < MIN_SIDE_OFFSET:
        return None
    if abs(dx) >= abs(dy):
        return "to the right of" if dx > 0 else "to the left of"
    return "below" if dy > 0 else "above"


def touches(masks: Masks, other: Masks, frame_idx: int) -> bool:
    """Return whether two objects touch: lie at most `MAX_GAP` apart.

    Args:
        masks: [T] RLEs of the object.
        other: [T] RLEs of the second object.
        frame_idx: a frame that shows both.

    Returns:
        True where they touch.
    """
    mask_HW, other_HW = mask_of(masks, frame_idx), mask_of(other, frame_idx)
    reach = max(1, round(MAX_GAP * mask_HW.shape[1]))
    rows, columns = _around(mask_HW, reach), _around(mask_HW.T, reach)
    mask_HW, other_HW = mask_HW[rows, columns], other_HW[rows, columns]
    if not other_HW.any():
        return False
    return bool((binary_dilation(mask_HW, iterations=reach) & other_HW).any())


def _around(mask_HW: np.ndarray, reach: int) -> slice:
    """The rows that a mask covers, and `reach` more on either side."""
    rows = np.flatnonzero(mask_HW.any(axis=1))
    return slice(max(0, int(rows[0]) - reach), int(rows[-1]) + reach + 1)


def center(masks: Masks, frame_idx: int) -> tuple[float, float]:
    """Return (x, y) of the centre in a frame that shows the object, in fractions of width and height."""
    mask_HW = mask_of(masks, frame_idx)
    ys, xs = np.nonzero(mask_HW)
    return (float(xs.mean()) + 0.5) / mask_HW.shape[1], (float(ys.mean()) + 0.5) / mask_HW.shape[0]


def area(masks: Masks, frame_idx: int) -> int:
    """Return the object's pixels in a frame, 0 where it is absent."""
    rle = masks[frame_idx]
    return 0 if rle is None else int(decode(rle).sum())


def mask_of(masks: Masks, frame_idx: int) -> np.ndarray:
    """Return the mask, bool [H, W], of a frame that shows the object. ValueError if it does not."""
    rle = masks[frame_idx]
    if rle is None:
        raise ValueError(f"frame {frame_idx} does not show the object")
    return decode(rle)
