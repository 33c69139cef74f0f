"""What single frames show of an object, from its masks: how much of it, where, and in which frame it is seen best."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from configs.schema import EnvConfig
from cot_data.moving_shapes.expressions import SEEN_AREA
from env.frames import sample_indices
from env.rle import decode
from env.types import RLE, Interval, Task

NEARLY = 0.7  # of the largest area: as good a key frame, and the earliest of them is easily named
_ROWS, _COLUMNS = ("upper", "", "lower"), ("left", "", "right")
PLACES = tuple(" ".join(filter(None, words)) or "center" for words in product(_ROWS, _COLUMNS))


@dataclass(frozen=True)
class Sight:
    """What one frame shows of an object."""

    area: int  # pixels
    is_cut: bool  # by the frame's border
    place: str


def first_frames(task: Task, config: EnvConfig) -> tuple[int, ...]:
    """The frames of the first observation, in order."""
    whole = Interval(0, task.video.num_frames)
    return tuple(sorted({*sample_indices(whole, config.strip_frames), *sample_indices(whole, config.detail_frames)}))


def see(gold: tuple[RLE | None, ...], frames: Iterable[int], least: int = SEEN_AREA) -> dict[int, Sight]:
    """What each of `frames` shows of an object, in order; those that show fewer than `least` pixels are left out."""
    sights = {t: _sight(*rle["size"], rle["counts"]) for t in sorted(frames) if (rle := gold[t]) is not None}
    return {t: sight for t, sight in sights.items() if sight.area >= least}


@lru_cache(maxsize=2**18)
def _sight(height: int, width: int, counts: str) -> Sight:
    """Kept, because a cold start writes traces from the same masks again and again."""
    mask_HW = decode({"size": [height, width], "counts": counts})
    is_cut = bool(mask_HW[[0, -1]].any() or mask_HW[:, [0, -1]].any())
    return Sight(int(mask_HW.sum()), is_cut, place_in(mask_HW))


def best_frame(gold: tuple[RLE | None, ...], shown: set[int], least: int = SEEN_AREA) -> int:
    """The frame that shows the target largest and whole, among the `shown` ones that show it, else among all.

    Of sizes that are nearly the largest the earliest wins; a target cut by the border only if all are.
    """
    sights = see(gold, shown, least) or see(gold, range(len(gold))) or see(gold, range(len(gold)), least=1)
    whole = {t: sight for t, sight in sights.items() if not sight.is_cut} or sights
    largest = max(sight.area for sight in whole.values())
    return next(t for t, sight in whole.items() if sight.area >= NEARLY * largest)


def visible_frames(gold: tuple[RLE | None, ...]) -> list[int]:
    """Frames that show an object at all."""
    return [t for t, rle in enumerate(gold) if rle is not None]


def place_of(center: tuple[float, float], height: int, width: int) -> str:
    """One of nine places for a point (x, y) in pixels: "upper left", "center", "lower", .."""
    x, y = center
    return PLACES[3 * min(int(3 * y / height), 2) + min(int(3 * x / width), 2)]


def place_in(mask_HW: np.ndarray) -> str:
    """The place of a mask's centre."""
    ys, xs = np.nonzero(mask_HW)
    return place_of((float(xs.mean()) + 0.5, float(ys.mean()) + 0.5), *mask_HW.shape)
