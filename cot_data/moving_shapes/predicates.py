"""Decide what holds for the visible path of a shape: how it moves, comes and goes, and where it is.

A predicate is True, False or None (unclear) for a shape.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cot_data.moving_shapes.scene import DIRECTIONS, Shape

MIN_VISIBLE_AREA = 24  # pixels from which a shape counts as visible
MIN_GAP = 6  # frames without the shape from which it counts as coming back
MIN_OFFSET = 7.0  # pixels between centres for "left of", "above", ..; between -1.5 and this it is unclear

Truth = bool | None  # None: unclear


@dataclass(frozen=True)
class Track:
    """One shape and its visible pixels per frame, `area_T`."""

    shape: Shape
    area_T: np.ndarray

    @property
    def first(self) -> int:
        """The first frame in which any of it is visible."""
        return int(np.flatnonzero(self.area_T)[0])

    @property
    def last(self) -> int:
        """The last frame in which any of it is visible."""
        return int(np.flatnonzero(self.area_T)[-1])

    def path(self) -> np.ndarray:
        """Return its centres (x, y) in pixels, [L, 2], from the first to the last frame in which it is visible."""
        return self.shape.centers_T2[self.first : self.last + 1]

    def num_visible(self, frames: Iterable[int]) -> int:
        """Return the number of `frames` in which it is visible: at least `MIN_VISIBLE_AREA` pixels."""
        return sum(int(self.area_T[t]) >= MIN_VISIBLE_AREA for t in frames)


def moves(track: Track, direction: str) -> Truth:
    """Return whether it moves in one direction all the time, at least 14 pixels; for a part of the time is unclear."""
    steps_L2 = np.diff(track.path(), axis=0)
    along_L = steps_L2 @ np.array(DIRECTIONS[direction])
    across = np.abs(steps_L2).sum() - np.abs(along_L).sum()
    forward, backward = along_L[along_L > 0].sum(), -along_L[along_L < 0].sum()
    if forward <= 3:
        return False
    moving = np.abs(along_L) > 0.05
    return True if forward >= 14 and backward <= 1 and across <= 2 and moving.mean() > 0.9 else None


def stops(track: Track) -> Truth:
    """Return whether it moves at least 10 pixels and then rests to the end, for at least a quarter of the time."""
    speed_L = np.abs(np.diff(track.path(), axis=0)).sum(axis=1)
    resting = speed_L <= 0.05
    if resting.all() or not resting.any():
        return False
    rest_start = len(resting) - int(np.argmin(resting[::-1]))
    rest = len(resting) - rest_start
    return True if speed_L[:rest_start].sum() >= 10 and rest >= max(5, len(resting) // 4) else None


def turns(track: Track) -> Truth:
    """Return whether it moves at least 10 pixels in one direction and then at least 10 back."""
    path_L2 = track.path()
    reach = np.abs(path_L2 - path_L2[0]).sum(axis=1)
    peak = int(reach.argmax())
    back = float(np.abs(path_L2[peak:] - path_L2[peak]).sum(axis=1).max())
    if back <= 2:
        return False
    return True if reach[peak] >= 10 and back >= 10 else None


def rests(track: Track) -> Truth:
    """Return whether it never moves: at most 0.5 pixels; up to 8 is unclear."""
    travel = float(np.abs(np.diff(track.path(), axis=0)).sum())
    return True if travel <= 0.5 else False if travel >= 8 else None


def comes_back(track: Track) -> Truth:
    """Return whether it is out of sight for `MIN_GAP` frames or more between two frames in which it is visible."""
    gaps = np.diff(np.flatnonzero(track.area_T)) - 1
    longest = int(gaps.max(initial=0))
    return True if longest >= MIN_GAP else False if longest <= 1 else None


def relation(track: Track, other: Track, direction: str, shown: tuple[int, ...]) -> Truth:
    """Return whether a shape is on one side of another, both when the two are first visible and when first shown.

    Args:
        track: the shape.
        other: the other shape.
        direction: "left", "right", "up" or "down" of the other.
        shown: frame indices of the first observation, in order.

    Returns:
        True or False if both moments agree, else None.
    """
    both = (track.area_T >= MIN_VISIBLE_AREA) & (other.area_T >= MIN_VISIBLE_AREA)
    if not both.any():
        return False
    in_shown = [t for t in shown if both[t]]
    if not in_shown:
        return None
    truths = set()
    for t in (int(np.flatnonzero(both)[0]), in_shown[0]):
        offset = track.shape.centers_T2[t] - other.shape.centers_T2[t]
        along = float(offset @ np.array(DIRECTIONS[direction]))
        truths.add(True if along >= MIN_OFFSET else False if along <= -1.5 else None)
    return truths.pop() if len(truths) == 1 else None


def order(values: list[int], margin: int) -> list[Truth]:
    """Return for each value whether it is the smallest by at least `margin`; the smallest is unclear without it."""
    smallest = min(values)
    clear = sum(value < smallest + margin for value in values) == 1
    return [(True if clear else None) if value == smallest else False for value in values]


def only(truths: list[Truth]) -> int | None:
    """Return the index of the only True if all others are False, else None."""
    is_clear = truths.count(True) == 1 and truths.count(False) == len(truths) - 1
    return truths.index(True) if is_clear else None
