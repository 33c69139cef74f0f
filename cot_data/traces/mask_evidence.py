"""What masks say of objects in the frames that are shown: when, which way, where, how large, beside what.

Pure functions of masks (COCO RLE by frame, or bool [H, W]) and source frame indices. Distances are shares of the
frame's width or height. What is not clear is not said: a function then returns None.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.ndimage import binary_dilation

from env.rle import decode
from env.types import RLE

Masks = Sequence[RLE | None]
STILL = 0.03  # the farthest that the centre of something still strays from where it was first seen
MOVED = 0.08  # the least that counts as moved, in one direction
APART = 0.06  # between two centres, for one to lie left of or above the other
GROWN = 1.5  # how many times as large, for a change of size to be said
BESIDE = 0.01  # of the frame's width: objects that are nearer touch
DIRECT = 0.7  # of the length of its path: the distance between the ends of what goes one way
STILL_WORD = "almost still"


@dataclass(frozen=True)
class Change:
    """Between two shown frames that follow each other an object comes into view, or goes out of it."""

    is_entry: bool
    before: int
    after: int


def changes(seen: Collection[int], shown: Collection[int]) -> list[Change]:
    """Every change of an object that is seen in `seen` among the frames `shown`.

    `changes({4, 8}, [0, 4, 8, 12])` is `[Change(True, 0, 4), Change(False, 8, 12)]`.
    """
    return [Change(b in seen, a, b) for a, b in pairwise(sorted(shown)) if (a in seen) != (b in seen)]


@dataclass(frozen=True)
class Motion:
    """One way between two frames: "to the right and down", "almost still"."""

    way: str
    first: int
    last: int


def motion(masks: Masks, seen: Sequence[int]) -> list[Motion]:
    """How the centre moves over the frames `seen`: in one go, or one way and then another.

    Empty where there are fewer than two frames, or the path is neither.
    """
    whole = _straight(masks, seen)
    if whole or len(seen) < 3:
        return [whole] if whole else []
    path_S2 = np.array([center(masks, t) for t in seen])
    away_S = np.hypot(*(path_S2 - path_S2[0]).T) + np.hypot(*(path_S2 - path_S2[-1]).T)
    bend = int(away_S.argmax())
    parts = [_straight(masks, seen[: bend + 1]), _straight(masks, seen[bend:])]
    return [part for part in parts if part] if all(parts) else []


def _straight(masks: Masks, seen: Sequence[int]) -> Motion | None:
    """The motion over `seen` if it has one direction, or is none to speak of."""
    if len(seen) < 2:
        return None
    path_S2 = np.array([center(masks, t) for t in seen])
    dx, dy = (float(each) for each in path_S2[-1] - path_S2[0])
    if np.abs(path_S2 - path_S2[0]).max() <= STILL:
        return Motion(STILL_WORD, seen[0], seen[-1])
    length = float(np.hypot(*np.diff(path_S2, axis=0).T).sum())
    words = []
    if abs(dx) >= max(MOVED, abs(dy) / 3):
        words.append("to the right" if dx > 0 else "to the left")
    if abs(dy) >= max(MOVED, abs(dx) / 3):
        words.append("down" if dy > 0 else "up")
    is_direct = np.hypot(dx, dy) >= DIRECT * length
    return Motion(" and ".join(words), seen[0], seen[-1]) if words and is_direct else None


def growth(masks: Masks, first: int, last: int) -> str | None:
    """ "larger" or "smaller" from one frame that shows it to another, None where the size is much the same."""
    ratio = area(masks, last) / area(masks, first)
    return "larger" if ratio >= GROWN else "smaller" if ratio <= 1 / GROWN else None


def percent(masks: Masks, frame_idx: int) -> int:
    """Its share of the frame; less than one counts as 1."""
    return max(1, round(100 * area(masks, frame_idx) / mask_of(masks, frame_idx).size))


def is_cut(masks: Masks, frame_idx: int) -> bool:
    """Whether it reaches the frame's border."""
    mask_HW = mask_of(masks, frame_idx)
    return bool(mask_HW[[0, -1]].any() or mask_HW[:, [0, -1]].any())


def side(masks: Masks, other: Masks, frame_idx: int) -> str | None:
    """Where it lies from `other`, in a frame that shows both: "to the left of", "above", ..; the clearer of the two."""
    dx, dy = np.subtract(center(masks, frame_idx), center(other, frame_idx))
    if max(abs(dx), abs(dy)) < APART:
        return None
    if abs(dx) >= abs(dy):
        return "to the right of" if dx > 0 else "to the left of"
    return "below" if dy > 0 else "above"


def touches(masks: Masks, other: Masks, frame_idx: int) -> bool:
    """Whether two objects lie against each other in a frame that shows both."""
    mask_HW, other_HW = mask_of(masks, frame_idx), mask_of(other, frame_idx)
    reach = max(1, round(BESIDE * mask_HW.shape[1]))
    rows, columns = _around(mask_HW, reach), _around(mask_HW.T, reach)
    mask_HW, other_HW = mask_HW[rows, columns], other_HW[rows, columns]
    if not other_HW.any():
        return False
    return bool((binary_dilation(mask_HW, iterations=reach) & other_HW).any())


def _around(mask_HW: np.ndarray, reach: int) -> slice:
    """The rows of a mask and `reach` more on either side."""
    rows = np.flatnonzero(mask_HW.any(axis=1))
    return slice(max(0, int(rows[0]) - reach), int(rows[-1]) + reach + 1)


def center(masks: Masks, frame_idx: int) -> tuple[float, float]:
    """(x, y) of the centre in a frame that shows it, as shares of width and height."""
    mask_HW = mask_of(masks, frame_idx)
    ys, xs = np.nonzero(mask_HW)
    return (float(xs.mean()) + 0.5) / mask_HW.shape[1], (float(ys.mean()) + 0.5) / mask_HW.shape[0]


def area(masks: Masks, frame_idx: int) -> int:
    """Pixels in a frame, 0 where it is absent."""
    rle = masks[frame_idx]
    return 0 if rle is None else int(decode(rle).sum())


def mask_of(masks: Masks, frame_idx: int) -> np.ndarray:
    """Bool [H, W] of a frame that shows it. ValueError where it does not."""
    rle = masks[frame_idx]
    if rle is None:
        raise ValueError(f"frame {frame_idx} does not show the object")
    return decode(rle)
