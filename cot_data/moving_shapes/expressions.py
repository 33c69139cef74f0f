"""Write the expressions of Moving Shapes, each of which fits exactly one shape.

A predicate is True, False or None (unclear) for a shape. An expression is kept only if the predicate is True for one
shape and False for all others, so that there are no borderline cases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cot_data.moving_shapes.predicates import (
    Track,
    Truth,
    comes_back,
    moves,
    only,
    order,
    relation,
    rests,
    stops,
    turns,
)
from cot_data.moving_shapes.scene import COLORS, DIRECTIONS, SHADES, Mark


@dataclass(frozen=True)
class ShapeExpression:
    """An expression with its labels; `target` is a shape index, or None where nothing matches."""

    text: str
    family: str
    target: int | None
    explore: str = ""
    evidence: tuple[int, ...] = ()


def appearance(tracks: list[Track]) -> list[ShapeExpression]:
    """Return `the dark red shape` and, where it is enough, the colour or the shade alone."""
    out = []
    for i, track in enumerate(tracks):
        shape = track.shape
        out.append(ShapeExpression(f"the {shape.caption} shape", "appearance", i))
        if sum(t.shape.color == shape.color for t in tracks) == 1:
            out.append(ShapeExpression(f"the {shape.color} shape", "appearance", i))
        if sum(t.shape.shade == shape.shade for t in tracks) == 1:
            out.append(ShapeExpression(f"the {shape.shade} shape", "appearance", i))
    return out


MOTIONS: dict[str, Callable[[Track], Truth]] = {
    **{f"the shape that moves {way}": lambda track, way=way: moves(track, way) for way in DIRECTIONS},
    "the shape that stops": stops,
    "the shape that turns around": turns,
    "the shape that never moves": rests,
}


def motion_of(track: Track) -> str:
    """Return the motion of a shape in the words of its expression; "moves" if none is clear."""
    return next((text.removeprefix("the shape that ") for text, holds in MOTIONS.items() if holds(track)), "moves")


def motion(tracks: list[Track]) -> list[ShapeExpression]:
    """Return `the shape that moves left`, `stops`, `turns around`, `never moves`."""
    found = [(text, only([holds(track) for track in tracks])) for text, holds in MOTIONS.items()]
    return [ShapeExpression(text, "motion", target) for text, target in found if target is not None]


def temporal(tracks: list[Track], margin: int) -> list[ShapeExpression]:
    """Return `the shape that appears first`, `appears last`, `leaves first`, `comes back`; `margin` frames apart."""
    truths = {
        "the shape that appears first": order([track.first for track in tracks], margin),
        "the shape that appears last": order([-track.first for track in tracks], margin),
        "the shape that leaves first": order([track.last for track in tracks], margin),
        "the shape that comes back": [comes_back(track) for track in tracks],
    }
    found = [(text, only(each)) for text, each in truths.items()]
    return [ShapeExpression(text, "temporal", target) for text, target in found if target is not None]


SIDES = {"left": "left of", "right": "right of", "up": "above", "down": "below"}


def relations(tracks: list[Track], shown: tuple[int, ...]) -> list[ShapeExpression]:
    """Return `the shape left of the dark blue one when both are first seen` and the like."""
    out = []
    for i, other in enumerate(tracks):
        for direction, words in SIDES.items():
            rest = [j for j in range(len(tracks)) if j != i]
            target = only([relation(tracks[j], other, direction, shown) for j in rest])
            if target is not None:
                text = f"the shape {words} the {other.shape.caption} one when both are first seen"
                out.append(ShapeExpression(text, "relation", rest[target]))
    return out


def name_in(text: str) -> str:
    """Return the full name ("dark red") in an expression, "" if there is none."""
    names = (f"{shade} {color}" for shade in SHADES for color in COLORS)
    return next((name for name in names if name in text), "")


def absent(tracks: list[Track]) -> list[ShapeExpression]:
    """Return expressions with names that no shape has, in a colour that some shape has."""
    taken = {track.shape.caption for track in tracks}
    near = [f"{shade} {track.shape.color}" for track in tracks for shade in SHADES]
    return [
        ShapeExpression(f"the {name} shape", "no_target", None) for name in dict.fromkeys(near) if name not in taken
    ]


def marked(mark: Mark, window: tuple[int, int], evidence: tuple[int, ...]) -> ShapeExpression:
    """Return the expression of a mark.

    Args:
        mark: the mark.
        window: first and last frame (inclusive) that the expression of a flash names; for checks the first counts.
        evidence: the frames with the mark.

    Returns:
        The expression, which asks for exploration.
    """
    if mark.kind == "flash":
        text = f"the shape that flashes between frames {window[0]} and {window[1]}"
        return ShapeExpression(text, "temporal", mark.shape_idx, "brief_event", evidence)
    text = f"the shape that is checkered near frame {window[0]}"
    return ShapeExpression(text, "appearance", mark.shape_idx, "fine_mark", evidence)


def plain_expressions(tracks: list[Track], shown: tuple[int, ...]) -> list[ShapeExpression]:
    """Return every unambiguous expression whose target can be found in the `shown` frames of the first observation."""
    margin = max(np.diff(shown).max(initial=1).item(), 1) + 1
    found = [
        *appearance(tracks),
        *motion(tracks),
        *temporal(tracks, margin),
        *relations(tracks, shown),
    ]
    min_frames = {"appearance": 1, "motion": 3, "temporal": 1, "relation": 1}
    return [
        each
        for each in found
        if each.target is not None and tracks[each.target].num_visible(shown) >= min_frames[each.family]
    ]
