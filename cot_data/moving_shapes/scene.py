"""Sample a scene of Moving Shapes: its shapes, where each is in every frame, and when it is present.

`render` draws the pixels, `expressions` writes the sentences. Coordinates are (x, y) in pixels, x to the right and y
downwards; the centre of a pixel has half-integer coordinates. Times are frame indices.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

# No channel is close to 0 or 255, so that checks can be lighter and darker than a colour and still average to it.
COLORS = {
    "red": (214, 60, 60),
    "green": (60, 178, 76),
    "blue": (64, 88, 220),
    "yellow": (208, 186, 52),
    "purple": (166, 66, 200),
    "cyan": (56, 178, 190),
}
SHADES = ("light", "dark")  # shade and colour name a shape, so that each of its pixels identifies it
OUTLINES = ("circle", "square", "cross")  # not part of a name: they only vary the masks
MARKS = ("flash", "checkered")  # short-lived patterns on a shape: white stripes; single light and dark pixels
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
MIN_STAY = 12  # fewest consecutive frames in which a shape is present
MIN_TRAVEL = 16.0  # fewest pixels that a moving shape travels


@dataclass(frozen=True)
class Shape:
    """One object."""

    color: str
    shade: str
    outline: str
    radius: float  # pixels
    centers_T2: np.ndarray  # (x, y) in pixels in every frame
    present_T: np.ndarray  # bool: whether it is in the scene at all

    @property
    def caption(self) -> str:
        """Its name: shade and colour."""
        return f"{self.shade} {self.color}"

    @property
    def paint(self) -> tuple[float, float, float]:
        """RGB of its pixels: a light shape is a third of the way to white, a dark one half as bright."""
        red, green, blue = (0.65 * v + 85 if self.shade == "light" else 0.5 * v + 8 for v in COLORS[self.color])
        return red, green, blue


@dataclass(frozen=True)
class Mark:
    """One of `MARKS` on a shape, for some frames."""

    shape_idx: int
    kind: str
    frames: range


@dataclass(frozen=True)
class Scene:
    """A video before it is rendered; `shapes` are ordered from back to front."""

    num_frames: int
    size: int
    shapes: tuple[Shape, ...]
    marks: tuple[Mark, ...] = field(default=())


def sample_num_frames(rng: np.random.Generator, min_frames: int, max_frames: int, long_share: float) -> int:
    """Sample the length of a video.

    Args:
        rng: takes two numbers.
        min_frames: shortest length.
        max_frames: longest length.
        long_share: probability of a length above the first quarter of that range.

    Returns:
        A number of frames.
    """
    middle = min_frames + (max_frames - min_frames) // 4
    if rng.random() < long_share:
        return int(rng.integers(middle, max_frames + 1))
    return int(rng.integers(min_frames, middle + 1))


def sample_scene(rng: np.random.Generator, num_frames: int, size: int, palette: int) -> Scene:
    """Sample 2 to 4 shapes that differ in colour or shade, each with one motion.

    They may occlude each other; the caller checks for that.

    Args:
        rng: decides on everything.
        num_frames: length of the video.
        size: side of a frame, in pixels.
        palette: number of colours to use.

    Returns:
        A scene without marks.
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
    """Present all the time; appearing late, leaving early, or both; or absent for a while in between.

    Short stays are more frequent: expressions favour long ones, and no fixed interval should be a good guess for their
    targets.
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
    """Centres [L, 2] of one motion: still, straight (sometimes from or to outside), stopping, or turning around."""
    low, high = radius, size - radius
    motion = rng.choice(["still", "straight", "stops", "turns"], p=[0.24, 0.36, 0.2, 0.2])
    where = rng.uniform(low, high, size=2)
    if motion == "still":
        return np.tile(where, (length, 1))
    step = np.array(DIRECTIONS[str(rng.choice(list(DIRECTIONS)))])
    travel = float(rng.uniform(MIN_TRAVEL + 4, high - low))
    start = np.where(step != 0, _start_along(rng, step, travel, (low, high)), where)
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


def _start_along(rng: np.random.Generator, step: np.ndarray, travel: float, bounds: tuple[float, float]) -> np.ndarray:
    """A start from which `travel` pixels along `step` stay within the bounds."""
    low, high = bounds
    offset = rng.uniform(low, high - travel)
    return np.where(step > 0, offset, low + high - offset)
