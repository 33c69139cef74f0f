"""Measure from its masks how an object appears in single frames: its area, its place, and the best key frame."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from configs.schema import EnvConfig
from cot_data.moving_shapes.predicates import MIN_VISIBLE_AREA
from env.rle import decode
from env.spacing import detail_frames, strip_frames
from env.types import RLE, Task

NEARLY_LARGEST = 0.7  # share of the largest area from which a key frame counts as equally good; the earliest one wins
_ROWS, _COLUMNS = ("upper", "", "lower"), ("left", "", "right")
PLACES = tuple(" ".join(filter(None, words)) or "center" for words in product(_ROWS, _COLUMNS))


@dataclass(frozen=True)
class ObjectView:
    """How one frame shows an object."""

    area: int  # pixels
    is_cut: bool  # by the frame's border
    place: str


def first_frames(task: Task, config: EnvConfig) -> tuple[int, ...]:
    """Return the frame indices of the first observation, in order."""
    num_frames = task.video.num_frames
    return tuple(sorted({*strip_frames(num_frames, config), *detail_frames(num_frames, config)}))


def object_views(
    masks: tuple[RLE | None, ...], frames: Iterable[int], min_area: int = MIN_VISIBLE_AREA
) -> dict[int, ObjectView]:
    """Return how each of `frames` shows an object.

    Args:
        masks: [T] RLEs of the object, None where it is absent.
        frames: frame indices, in any order.
        min_area: frames that show fewer pixels are left out.

    Returns:
        Frame index to view, in order of the frames.
    """
    views = {t: _object_view(*rle["size"], rle["counts"]) for t in sorted(frames) if (rle := masks[t]) is not None}
    return {t: view for t, view in views.items() if view.area >= min_area}


@lru_cache(maxsize=2**18)
def _object_view(height: int, width: int, counts: str) -> ObjectView:
    """Cached, because a cold start writes traces from the same masks many times."""
    mask_HW = decode({"size": [height, width], "counts": counts})
    return ObjectView(int(mask_HW.sum()), reaches_border(mask_HW), place_in(mask_HW))


def reaches_border(mask_HW: np.ndarray) -> bool:
    """Return whether a mask has pixels at the frame's border."""
    return bool(mask_HW[[0, -1]].any() or mask_HW[:, [0, -1]].any())


def best_frame(masks: tuple[RLE | None, ...], shown: set[int], min_area: int = MIN_VISIBLE_AREA) -> int:
    """Return the frame that shows an object large and whole: of the frames shown if any shows it, else of all frames.

    The earliest frame with at least `NEARLY_LARGEST` of the largest area wins. Frames in which the border cuts the
    object count only if it is cut in all of them.

    Args:
        masks: [T] RLEs of the object, at least one of them not None.
        shown: frame indices that the policy has seen.
        min_area: fewest pixels by which the object counts as visible.

    Returns:
        A frame index.
    """
    every = range(len(masks))
    views = object_views(masks, shown, min_area) or object_views(masks, every) or object_views(masks, every, min_area=1)
    whole = {t: view for t, view in views.items() if not view.is_cut} or views
    largest = max(view.area for view in whole.values())
    return next(t for t, view in whole.items() if view.area >= NEARLY_LARGEST * largest)


def visible_frames(masks: tuple[RLE | None, ...]) -> list[int]:
    """Return the frames that show any pixel of an object."""
    return [t for t, rle in enumerate(masks) if rle is not None]


def place_of(center: tuple[float, float], height: int, width: int) -> str:
    """Return which of nine places a point lies in: "upper left", "center", "lower", ..

    Args:
        center: (x, y) in pixels.
        height: of the frame, in pixels.
        width: of the frame, in pixels.

    Returns:
        A member of `PLACES`.
    """
    x, y = center
    return PLACES[3 * min(int(3 * y / height), 2) + min(int(3 * x / width), 2)]


def place_in(mask_HW: np.ndarray) -> str:
    """Return the place of a mask's centre."""
    ys, xs = np.nonzero(mask_HW)
    return place_of((float(xs.mean()) + 0.5, float(ys.mean()) + 0.5), *mask_HW.shape)
