"""Sample the marks of a scene of Moving Shapes, which the first observation does not show: flashes and checks."""

from __future__ import annotations

import numpy as np

from cot_data.moving_shapes.expressions import ShapeExpression, marked
from cot_data.moving_shapes.predicates import MIN_VISIBLE_AREA, Track
from cot_data.moving_shapes.render import checks, footprint
from cot_data.moving_shapes.scene import Mark

MAX_WINDOW = 7  # frames that the expression of a flash names: four evenly spaced ones cannot miss a flash of two
MIN_CHECKS = 16  # fewest visible checkered pixels
NUM_TRIES = 60  # marks sampled for one scene
MIN_DISTANCE = 12  # frames between two marks of one kind


def add_marks(
    rng: np.random.Generator,
    masks_NTHW: np.ndarray,
    tracks: list[Track],
    first_frames: tuple[tuple[int, ...], tuple[int, ...]],
    count: int,
) -> tuple[list[Mark], list[ShapeExpression]]:
    """Sample marks whose frames are far enough apart to be unambiguous.

    Args:
        rng: decides on everything.
        masks_NTHW: bool, visible pixels of each shape.
        tracks: the shapes.
        first_frames: indices of the small and of the large frames of the first observation. Large ones must not show
            any mark, small ones no flash.
        count: most marks.

    Returns:
        Up to `count` marks, and the expression of each.
    """
    strip, detail = first_frames
    marks: list[Mark] = []
    chosen: list[ShapeExpression] = []
    for _ in range(NUM_TRIES):
        if len(marks) == count:
            break
        if rng.random() < 0.5:
            found = _sample_flash(rng, tracks, set(strip) | set(detail))
        else:
            found = _sample_checks(rng, tracks, masks_NTHW, set(detail))
        if found and all(_apart(found[0], mark) for mark in marks):
            marks.append(found[0])
            chosen.append(found[1])
    return marks, chosen


def _apart(new: Mark, old: Mark) -> bool:
    """Whether two marks of one kind are far enough apart, and two marks of one shape do not overlap in time."""
    between = max(new.frames.start - old.frames.stop, old.frames.start - new.frames.stop)
    return between >= MIN_DISTANCE if new.kind == old.kind else between >= 0 or new.shape_idx != old.shape_idx


def _sample_flash(
    rng: np.random.Generator, tracks: list[Track], hidden_from: set[int]
) -> tuple[Mark, ShapeExpression] | None:
    """A flash of 2 to 3 frames that no frame of the first observation shows, and the window that its expression names.

    It covers the middle of the window, so that the middle frame shows it, and so do four evenly spaced ones.
    """
    shape_idx, length = int(rng.integers(len(tracks))), int(rng.integers(2, 4))
    area_T = tracks[shape_idx].area_T
    num_frames = len(area_T)
    start = int(rng.integers(1, num_frames - length))
    frames = range(start, start + length)
    if hidden_from & set(frames) or min(area_T[start : start + length]) < 0.8 * area_T.max():
        return None
    width = int(rng.integers(length + 2, MAX_WINDOW + 1))
    first = start + int(rng.integers(length)) - (width - 1) // 2
    last = first + width - 1
    if first < 0 or last >= num_frames or first > start or last < frames[-1] or not _has_rivals(tracks, frames):
        return None
    mark = Mark(shape_idx, "flash", frames)
    return mark, marked(mark, (first, last), tuple(frames))


def _has_rivals(tracks: list[Track], frames: range) -> bool:
    """Whether each of `frames` shows at least two shapes, so that the time alone does not identify the target."""
    return all(sum(track.area_T[t] >= MIN_VISIBLE_AREA for track in tracks) >= 2 for t in frames)


def _sample_checks(
    rng: np.random.Generator, tracks: list[Track], masks_NTHW: np.ndarray, hidden_from: set[int]
) -> tuple[Mark, ShapeExpression] | None:
    """Checks of 5 to 9 frames while another shape is visible too; the expression names the middle frame."""
    shape_idx, half = int(rng.integers(len(tracks))), int(rng.integers(2, 5))
    num_frames = masks_NTHW.shape[1]
    middle = int(rng.integers(half + 1, num_frames - half - 1))
    frames = range(middle - half, middle + half + 1)
    if hidden_from & set(frames) or not _has_rivals(tracks, frames):
        return None
    own, size = footprint(tracks[shape_idx].shape), masks_NTHW.shape[-1]
    if any((checks(own, t, size) & masks_NTHW[shape_idx, t]).sum() < MIN_CHECKS for t in frames):
        return None
    mark = Mark(shape_idx, "checkered", frames)
    return mark, marked(mark, (middle, middle), tuple(frames))
