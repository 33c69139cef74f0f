"""Moving Shapes, the scene: which shapes there are, where each one is in every frame, and when it can be seen.

`render` beside this draws the pixels, `expressions` writes the sentences. Coordinates are (x, y) in pixels, x to the
right and y downwards; a pixel's centre lies at a half. Times are frame indices.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

# No channel is close to 0 or 255, so that checks can be lighter and darker than the paint and average to it.
COLORS = {
    "red": (214, 60, 60),
    "green": (60, 178, 76),
    "blue": (64, 88, 220),
    "yellow": (208, 186, 52),
    "purple": (166, 66, 200),
    "cyan": (56, 178, 190),
}
SHADES = ("light", "dark")  # with the colour the name of a shape: every pixel says which one it is part of
OUTLINES = ("circle", "square", "cross")  # unnamed: masks differ in form, names do not
MARKS = ("flash", "checkered")  # what a shape wears for a short time: white stripes, single light and dark pixels
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
MIN_STAY = 12  # fewest frames a shape is there at a stretch
MIN_TRAVEL = 16.0  # fewest pixels that a moving shape covers


@dataclass(frozen=True)
class Shape:
    """One object. `centers_T2` holds its centre in every frame, `present_T` whether it is in the scene at all."""

    color: str
    shade: str
    outline: str
    radius: float
    centers_T2: np.ndarray
    present_T: np.ndarray

    @property
    def caption(self) -> str:
        return f"{self.shade} {self.color}"

    @property
    def paint(self) -> tuple[float, float, float]:
        """RGB: a third of the way to white where it is light, half as bright where it is dark."""
        red, green, blue = (0.65 * v + 85 if self.shade == "light" else 0.5 * v + 8 for v in COLORS[self.color])
        return red, green, blue


@dataclass(frozen=True)
class Mark:
    """A shape that wears one of `MARKS` for a while."""

    shape_idx: int
    kind: str
    frames: range


@dataclass(frozen=True)
class Scene:
    """A whole video before it is drawn; `shapes` run from the back to the front."""

    num_frames: int
    size: int
    shapes: tuple[Shape, ...]
    marks: tuple[Mark, ...] = field(default=())


def sample_num_frames(rng: np.random.Generator, min_frames: int, max_frames: int, long_share: float) -> int:
    """Length of a video: mostly within the first quarter of the range, sometimes anywhere above it."""
    middle = min_frames + (max_frames - min_frames) // 4
    if rng.random() < long_share:
        return int(rng.integers(middle, max_frames + 1))
    return int(rng.integers(min_frames, middle + 1))


def sample_scene(rng: np.random.Generator, num_frames: int, size: int, palette: int) -> Scene:
    """2-4 shapes with no two alike in colour and shade, painted from `palette` colours; one motion each.

    Whether they hide each other too much is for the caller.
    """
    count = int(rng.integers(2, 5))
    colors = [str(color) for color in rng.permutation(list(COLORS))[:palette]]
    every = [(color, shade) for color in colors for shade in SHADES]
    pairs = [every[i] for i in rng.permutation(len(every))[:count]]
    return Scene(num_frames, size, tuple(_sample_shape(rng, color, shade, num_frames, size) for color, shade in pairs))


def _sample_shape(rng: np.random.Generator, color: str, shade: str, num_frames: int, size: int) -> Shape:
    present_T = _sample_presence(rng, num_frames)
    there = np.flatnonzero(present_T)
    start, length = int(there[0]), int(there[-1] - there[0] + 1)
    radius = float(rng.uniform(9.0, 13.0))
    path_L2 = _sample_path(rng, length, radius, size)
    centers_T2 = np.empty((num_frames, 2))
    centers_T2[:start], centers_T2[start : start + length], centers_T2[start + length :] = (
        path_L2[0],
        path_L2,
        path_L2[-1],
    )
    outline = str(rng.choice(OUTLINES))
    return Shape(color, shade, outline, radius, centers_T2, present_T)


def _sample_presence(rng: np.random.Generator, num_frames: int) -> np.ndarray:
    """Present throughout, or coming late, leaving early, or both, or going away and coming back.

    Short stays are more frequent: sentences favour long ones, and no interval should be a good guess for their targets.
    """
    present_T = np.ones(num_frames, dtype=bool)
    style = rng.choice(["all", "late", "early", "both", "gap"], p=[0.06, 0.29, 0.29, 0.22, 0.14])
    length = MIN_STAY + int((num_frames - MIN_STAY - 2) * rng.random() ** 1.7)
    if style == "gap" and num_frames >= 2 * MIN_STAY + 8:
        length = int(rng.integers(8, num_frames - 2 * MIN_STAY + 1))
        start = int(rng.integers(MIN_STAY, num_frames - MIN_STAY - length + 1))
        present_T[start : start + length] = False
    elif style == "both":
        start = int(rng.integers(1, num_frames - length))
        present_T[:start] = present_T[start + length :] = False
    elif style == "late":
        present_T[: num_frames - length] = False
    elif style == "early":
        present_T[length:] = False
    return present_T


def _sample_path(rng: np.random.Generator, length: int, radius: float, size: int) -> np.ndarray:
    """Centres [L, 2] of one motion: still, straight (from or to outside, at times), stopping, or turning around."""
    low, high = radius, size - radius
    motion = rng.choice(["still", "straight", "stops", "turns"], p=[0.24, 0.36, 0.2, 0.2])
    where = rng.uniform(low, high, size=2)
    if motion == "still":
        return np.tile(where, (length, 1))
    step = np.array(DIRECTIONS[str(rng.choice(list(DIRECTIONS)))])
    travel = float(rng.uniform(MIN_TRAVEL + 4, high - low))
    start = _start_for(rng, where, step, travel, low, high)
    if motion == "straight":
        outside = rng.choice(["none", "before", "after"], p=[0.6, 0.2, 0.2])
        if outside == "before":
            start = np.where(step > 0, -0.5 * radius, np.where(step < 0, size + 0.5 * radius, start))
        elif outside == "after":
            start = start + step * 0.9 * radius + step * (high - low - travel) * (rng.random() < 0.5)
        done_L = np.linspace(0.0, 1.0, length)
    elif motion == "stops":
        done_L = np.minimum(np.arange(length) / (length * rng.uniform(0.35, 0.6)), 1.0)
    else:
        peak = length * rng.uniform(0.4, 0.6)
        at_L = np.arange(length)
        back = rng.uniform(0.85, 1.0)
        done_L = np.where(at_L < peak, at_L / peak, 1.0 - back * (at_L - peak) / max(length - 1 - peak, 1.0))
    return start + travel * done_L[:, None] * step


def _start_for(
    rng: np.random.Generator, where: np.ndarray, step: np.ndarray, travel: float, low: float, high: float
) -> np.ndarray:
    """A start from which `travel` pixels along `step` stay within [low, high]."""
    offset = rng.uniform(low, high - travel)
    along = np.where(step > 0, offset, low + high - offset)
    return np.where(step != 0, along, where)
