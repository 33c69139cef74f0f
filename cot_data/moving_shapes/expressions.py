"""Moving Shapes, the sentences: predicates over what can be seen, and the expressions that they make unambiguous.

A predicate says True, False or None (unclear) of a shape. An expression is kept only if exactly one shape is True
and every other is False, so that no near miss is left to taste.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from cot_data.moving_shapes.scene import COLORS, DIRECTIONS, SHADES, Mark, Shape

SEEN_AREA = 24  # fewest visible pixels that count as a look at a shape
GAP_FRAMES = 6  # a shape that comes back was gone for at least so long
APART = 7.0  # pixels between centres for "left of" and its kin; less than 1.5 either way is unclear

Verdict = bool | None


@dataclass(frozen=True)
class Track:
    """One shape and what can be seen of it: `area_T` visible pixels per frame."""

    shape: Shape
    area_T: np.ndarray

    @property
    def first(self) -> int:
        return int(np.flatnonzero(self.area_T)[0])

    @property
    def last(self) -> int:
        return int(np.flatnonzero(self.area_T)[-1])

    def path(self) -> np.ndarray:
        """Centres [L, 2] from the first to the last frame in which it can be seen."""
        return self.shape.centers_T2[self.first : self.last + 1]

    def looks(self, frames: Iterable[int]) -> int:
        """Number of `frames` that give a look at it."""
        return sum(int(self.area_T[t]) >= SEEN_AREA for t in frames)


@dataclass(frozen=True)
class Candidate:
    """An expression with its label; `target` is a shape index, or None where nothing matches."""

    text: str
    family: str
    target: int | None
    explore: str = ""
    evidence: tuple[int, ...] = ()


def moves(track: Track, direction: str) -> Verdict:
    """Goes one way all the time, at least 14 pixels in all; unclear if it does so for a part of the time."""
    steps_L2 = np.diff(track.path(), axis=0)
    along_L = steps_L2 @ np.array(DIRECTIONS[direction])
    across = np.abs(steps_L2).sum() - np.abs(along_L).sum()
    forward, backward = along_L[along_L > 0].sum(), -along_L[along_L < 0].sum()
    if forward <= 3:
        return False
    moving = np.abs(along_L) > 0.05
    return True if forward >= 14 and backward <= 1 and across <= 2 and moving.mean() > 0.9 else None


def stops(track: Track) -> Verdict:
    """Moves at least 10 pixels and then rests until it is last seen, for a quarter of the time or more."""
    speed_L = np.abs(np.diff(track.path(), axis=0)).sum(axis=1)
    resting = speed_L <= 0.05
    if resting.all() or not resting.any():
        return False
    rest_start = len(resting) - int(np.argmin(resting[::-1]))
    rest = len(resting) - rest_start
    return True if speed_L[:rest_start].sum() >= 10 and rest >= max(5, len(resting) // 4) else None


def turns(track: Track) -> Verdict:
    """Goes at least 10 pixels one way and then at least 10 back."""
    path_L2 = track.path()
    reach = np.abs(path_L2 - path_L2[0]).sum(axis=1)
    peak = int(reach.argmax())
    back = float(np.abs(path_L2[peak:] - path_L2[peak]).sum(axis=1).max())
    if back <= 2:
        return False
    return True if reach[peak] >= 10 and back >= 10 else None


def rests(track: Track) -> Verdict:
    """Never moves."""
    travel = float(np.abs(np.diff(track.path(), axis=0)).sum())
    return True if travel <= 0.5 else False if travel >= 8 else None


def comes_back(track: Track) -> Verdict:
    """Is out of sight for 6 frames or more between two frames in which it is seen."""
    gaps = np.diff(np.flatnonzero(track.area_T)) - 1
    longest = int(gaps.max(initial=0))
    return True if longest >= GAP_FRAMES else False if longest <= 1 else None


def relation(track: Track, other: Track, direction: str, shown: tuple[int, ...]) -> Verdict:
    """Lies `direction` of `other` in the first frame that gives a look at both, and in the first shown one."""
    both = (track.area_T >= SEEN_AREA) & (other.area_T >= SEEN_AREA)
    if not both.any():
        return False
    in_shown = [t for t in shown if both[t]]
    if not in_shown:
        return None
    verdicts = set()
    for t in (int(np.flatnonzero(both)[0]), in_shown[0]):
        offset = track.shape.centers_T2[t] - other.shape.centers_T2[t]
        along = float(offset @ np.array(DIRECTIONS[direction]))
        verdicts.add(True if along >= APART else False if along <= -1.5 else None)
    return verdicts.pop() if len(verdicts) == 1 else None


def order(values: list[int], margin: int) -> list[Verdict]:
    """Of each value: is it the smallest, by `margin` or more? Values that come nearer to the smallest are unclear."""
    smallest = min(values)
    clear = sum(value < smallest + margin for value in values) == 1
    return [(True if clear else None) if value == smallest else False for value in values]


def only(verdicts: list[Verdict]) -> int | None:
    """The index of the one True, where all others are False."""
    return verdicts.index(True) if verdicts.count(True) == 1 and verdicts.count(False) == len(verdicts) - 1 else None


def appearance(tracks: list[Track]) -> list[Candidate]:
    """`the dark red shape`; by colour or shade alone where that is enough."""
    out = []
    for i, track in enumerate(tracks):
        shape = track.shape
        out.append(Candidate(f"the {shape.caption} shape", "appearance", i))
        if sum(t.shape.color == shape.color for t in tracks) == 1:
            out.append(Candidate(f"the {shape.color} shape", "appearance", i))
        if sum(t.shape.shade == shape.shade for t in tracks) == 1:
            out.append(Candidate(f"the {shape.shade} shape", "appearance", i))
    return out


MOTIONS: dict[str, Callable[[Track], Verdict]] = {
    **{f"the shape that moves {way}": lambda track, way=way: moves(track, way) for way in DIRECTIONS},
    "the shape that stops": stops,
    "the shape that turns around": turns,
    "the shape that never moves": rests,
}


def motion_of(track: Track) -> str:
    """How one shape moves, as its expression says it; "moves" where none of them is clear."""
    return next((text.removeprefix("the shape that ") for text, holds in MOTIONS.items() if holds(track)), "moves")


def motion(tracks: list[Track]) -> list[Candidate]:
    """`the shape that moves left`, `stops`, `turns around`, `never moves`."""
    found = [(text, only([holds(track) for track in tracks])) for text, holds in MOTIONS.items()]
    return [Candidate(text, "motion", target) for text, target in found if target is not None]


def temporal(tracks: list[Track], margin: int) -> list[Candidate]:
    """`the shape that appears first`, `appears last`, `leaves first`, `comes back`; `margin` frames apart."""
    verdicts = {
        "the shape that appears first": order([track.first for track in tracks], margin),
        "the shape that appears last": order([-track.first for track in tracks], margin),
        "the shape that leaves first": order([track.last for track in tracks], margin),
        "the shape that comes back": [comes_back(track) for track in tracks],
    }
    found = [(text, only(each)) for text, each in verdicts.items()]
    return [Candidate(text, "temporal", target) for text, target in found if target is not None]


SIDES = {"left": "left of", "right": "right of", "up": "above", "down": "below"}


def relations(tracks: list[Track], shown: tuple[int, ...]) -> list[Candidate]:
    """`the shape left of the dark blue one when both are first seen`."""
    out = []
    for i, other in enumerate(tracks):
        for direction, words in SIDES.items():
            rest = [j for j in range(len(tracks)) if j != i]
            target = only([relation(tracks[j], other, direction, shown) for j in rest])
            if target is not None:
                text = f"the shape {words} the {other.shape.caption} one when both are first seen"
                out.append(Candidate(text, "relation", rest[target]))
    return out


def name_in(text: str) -> str:
    """The whole name ("dark red") that an expression names, "" where it names none."""
    names = (f"{shade} {color}" for shade in SHADES for color in COLORS)
    return next((name for name in names if name in text), "")


def absent(tracks: list[Track]) -> list[Candidate]:
    """Names that no shape has, though some shape has the colour."""
    taken = {track.shape.caption for track in tracks}
    near = [f"{shade} {track.shape.color}" for track in tracks for shade in SHADES]
    return [Candidate(f"the {name} shape", "no_target", None) for name in dict.fromkeys(near) if name not in taken]


def marked(mark: Mark, window: tuple[int, int], evidence: tuple[int, ...]) -> Candidate:
    """The expression of a mark: a flash is named by its window (both ends included), checks by a frame near them."""
    if mark.kind == "flash":
        text = f"the shape that flashes between frames {window[0]} and {window[1]}"
        return Candidate(text, "temporal", mark.shape_idx, "brief_event", evidence)
    text = f"the shape that is checkered near frame {window[0]}"
    return Candidate(text, "appearance", mark.shape_idx, "fine_mark", evidence)


def plain_candidates(tracks: list[Track], shown: tuple[int, ...]) -> list[Candidate]:
    """Every unambiguous expression whose target the `shown` frames of the first observation let one find."""
    margin = max(np.diff(shown).max(initial=1).item(), 1) + 1
    found = [
        *appearance(tracks),
        *motion(tracks),
        *temporal(tracks, margin),
        *relations(tracks, shown),
    ]
    looks_needed = {"appearance": 1, "motion": 3, "temporal": 1, "relation": 1}
    return [c for c in found if c.target is not None and tracks[c.target].looks(shown) >= looks_needed[c.family]]
