"""Moving Shapes, the pixels: anti-aliased frames and exact masks from one signed distance per shape.

A pixel belongs to a shape where the distance of its centre is negative, which is where the shape covers more than
half of it; `alpha = clip(0.5 - distance, 0, 1)` is how much of its colour it takes. Masks hold visible pixels only.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from cot_data.shapes import COLORS, Scene, Shape

CORE = 0.6  # while a shape flashes its colour is left in a copy of this scale; the rim around it is white
OUTLINE, DARK = 1.0, 0.3  # pixels within the outline that are darker: shapes of one colour stay apart when they meet


@dataclass(frozen=True)
class Footprint:
    """One shape's own coverage, before anything hides it, in a window that follows it.

    `alpha_TWW` in 0..1, `corner_T2` the window's upper left pixel (x, y); windows reach over the frame by `pad`.
    """

    alpha_TWW: np.ndarray
    corner_T2: np.ndarray
    pad: int


def distance(kind: str, x: np.ndarray, y: np.ndarray, radius: float | np.ndarray) -> np.ndarray:
    """Signed distance (a lower bound outside corners) in pixels of points to a shape's outline, negative inside."""
    if kind == "circle":
        return np.hypot(x, y) - 0.95 * radius
    x, y = np.abs(x), np.abs(y)
    lying = np.maximum(x - 1.05 * radius, y - 0.5 * radius)
    standing = np.maximum(x - 0.5 * radius, y - 1.05 * radius)
    return {"bar": lying, "pillar": standing, "cross": np.minimum(lying, standing)}[kind]


def footprint(shape: Shape, scale: float = 1.0, inset: float = 0.0) -> Footprint:
    """Coverage of `shape`, drawn at `scale` times its radius and `inset` pixels within its outline, in every frame."""
    pad = int(np.ceil(1.1 * shape.radius)) + 2
    corner_T2 = np.floor(shape.centers_T2).astype(int) - pad
    grid_W = np.arange(2 * pad + 1) + 0.5
    offset_T2 = corner_T2 - shape.centers_T2
    x = grid_W[None, None, :] + offset_T2[:, 0, None, None]
    y = grid_W[None, :, None] + offset_T2[:, 1, None, None]
    alpha_TWW = np.clip(0.5 - inset - distance(shape.kind, x, y, scale * shape.radius), 0.0, 1.0)
    return Footprint(alpha_TWW, corner_T2, pad)


def _window(footprint_: Footprint, frame_idx: int, size: int) -> tuple[slice, slice, slice, slice]:
    """Rows and columns in the frame, then in the window, of the part of the window that lies in the frame."""
    left, top = (int(v) for v in footprint_.corner_T2[frame_idx])
    side = 2 * footprint_.pad + 1
    rows = slice(min(max(top, 0), size), max(min(top + side, size), 0))
    cols = slice(min(max(left, 0), size), max(min(left + side, size), 0))
    return rows, cols, slice(rows.start - top, rows.stop - top), slice(cols.start - left, cols.stop - left)


def scene_masks(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Visible pixels and uncovered areas of every shape.

    Returns:
        masks_NTHW: bool, what can be seen of each shape; full_NT: int, its pixels in the frame if nothing hid it.
    """
    count = len(scene.shapes)
    masks_NTHW = np.zeros((count, scene.num_frames, scene.size, scene.size), dtype=bool)
    full_NT = np.zeros((count, scene.num_frames), dtype=int)
    for shape_idx, shape in enumerate(scene.shapes):
        own = footprint(shape)
        for t in np.flatnonzero(shape.present_T):
            rows, cols, from_rows, from_cols = _window(own, int(t), scene.size)
            covered = own.alpha_TWW[t, from_rows, from_cols] > 0.5
            full_NT[shape_idx, t] = covered.sum()
            masks_NTHW[:shape_idx, t, rows, cols] &= ~covered
            masks_NTHW[shape_idx, t, rows, cols] = covered
    return masks_NTHW, full_NT


def background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A grey texture [H, W, 3] in 60..170: smooth blobs at two scales, and stripes at times."""
    texture_HW = np.zeros((size, size))
    for cells, weight in ((4, 18.0), (16, 9.0)):
        noise = rng.normal(size=(cells, cells)).astype(np.float32)
        texture_HW += weight * cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.4:
        x, y = np.meshgrid(np.arange(size), np.arange(size))
        angle, period = rng.uniform(0, np.pi), rng.uniform(5, 14)
        texture_HW += 9.0 * np.sign(np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period))
    tint_3 = rng.uniform(-8, 8, size=3)
    return np.clip(texture_HW[..., None] + rng.uniform(95, 135) + tint_3, 60, 170)


def checks(inner: Footprint, frame_idx: int, size: int) -> np.ndarray:
    """Where [H, W] a checkered shape is light and dark by turns: all cells of 2x2 (at even coordinates) within `inner`.

    A cell averages to the shape's colour, so that half the size hides it.
    """
    rows, cols, from_rows, from_cols = _window(inner, frame_idx, size)
    inside_HW = np.zeros((size, size), bool)
    inside_HW[rows, cols] = inner.alpha_TWW[frame_idx, from_rows, from_cols] == 1
    even = size // 2 * 2
    cells = inside_HW[:even, :even].reshape(even // 2, 2, even // 2, 2).all(axis=(1, 3))
    out_HW = np.zeros_like(inside_HW)
    out_HW[:even, :even] = cells.repeat(2, axis=0).repeat(2, axis=1)
    return out_HW


def inner_footprint(shape: Shape) -> Footprint:
    """What lies within the dark outline of a shape."""
    return footprint(shape, inset=OUTLINE)


def draw_scene(scene: Scene, background_HW3: np.ndarray) -> np.ndarray:
    """Frames uint8 [T, H, W, 3], RGB."""
    frames_THW3 = np.repeat(background_HW3[None], scene.num_frames, axis=0)
    for shape_idx, shape in enumerate(scene.shapes):
        whole, inner, core = footprint(shape), inner_footprint(shape), footprint(shape, CORE)
        color_3 = np.array(COLORS[shape.color], dtype=float)
        wears = {
            kind: {t for m in scene.marks if (m.shape_idx, m.kind) == (shape_idx, kind) for t in m.frames}
            for kind in ("flash", "checkered")
        }
        for t in (int(t) for t in np.flatnonzero(shape.present_T)):
            rows, cols, from_rows, from_cols = _window(whole, t, scene.size)
            at = (t, from_rows, from_cols, None)
            filled, edge = (core, 255.0) if t in wears["flash"] else (inner, DARK * color_3)
            paint = filled.alpha_TWW[at] * color_3 + (1 - filled.alpha_TWW[at]) * edge
            patch = frames_THW3[t, rows, cols]
            patch[:] = whole.alpha_TWW[at] * paint + (1 - whole.alpha_TWW[at]) * patch
            if t in wears["checkered"]:
                ys, xs = np.nonzero(checks(inner, t, scene.size))
                sign = np.where((ys + xs) % 2 == 0, 1.0, -1.0)
                frames_THW3[t, ys, xs] = color_3 + sign[:, None] * np.minimum(color_3, 255.0 - color_3)
    return np.clip(np.round(frames_THW3), 0, 255).astype(np.uint8)
