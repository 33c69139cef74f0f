"""Render the pixels of Moving Shapes: anti-aliased frames and exact masks from one signed distance per shape.

A pixel belongs to a shape if the signed distance of its centre is negative, that is, if the shape covers more than half
of it. `alpha = clip(0.5 - distance, 0, 1)` blends the shape's colour. Masks contain visible pixels only.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from cot_data.moving_shapes.scene import Scene, Shape

STRIPE = 2  # rows of a flashing shape that are white, then as many in its own colour, which identifies the shape


@dataclass(frozen=True)
class Footprint:
    """The pixels that one shape covers, without occlusion, in a window that follows it."""

    alpha_TWW: np.ndarray  # coverage, 0 to 1
    corner_T2: np.ndarray  # upper left pixel (x, y) of the window; may lie outside of the frame
    pad: int  # pixels from the window's middle to its border


def distance(outline: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Return the signed distance of points to an outline (outside of corners, a lower bound).

    Args:
        outline: a member of `scene.OUTLINES`.
        x: coordinates of the points relative to the centre, in pixels, of any shape.
        y: likewise.
        radius: of the outline, in pixels.

    Returns:
        Pixels, negative inside.
    """
    if outline == "circle":
        return np.hypot(x, y) - 0.95 * radius
    x, y = np.abs(x), np.abs(y)
    if outline == "square":
        return np.maximum(x, y) - 0.85 * radius
    return np.minimum(np.maximum(x - radius, y - 0.5 * radius), np.maximum(x - 0.5 * radius, y - radius))


def footprint(shape: Shape) -> Footprint:
    """Return the coverage of a shape in every frame."""
    pad = int(np.ceil(1.1 * shape.radius)) + 2
    corner_T2 = np.floor(shape.centers_T2).astype(int) - pad
    grid_W = np.arange(2 * pad + 1) + 0.5
    offset_T2 = corner_T2 - shape.centers_T2
    x = grid_W[None, None, :] + offset_T2[:, 0, None, None]
    y = grid_W[None, :, None] + offset_T2[:, 1, None, None]
    alpha_TWW = np.clip(0.5 - distance(shape.outline, x, y, shape.radius), 0.0, 1.0)
    return Footprint(alpha_TWW, corner_T2, pad)


def _window(footprint_: Footprint, frame_idx: int, size: int) -> tuple[slice, slice, slice, slice]:
    """The part of a window that lies in the frame: rows and columns of the frame, then those of the window."""
    left, top = (int(v) for v in footprint_.corner_T2[frame_idx])
    side = 2 * footprint_.pad + 1
    rows = slice(min(max(top, 0), size), max(min(top + side, size), 0))
    cols = slice(min(max(left, 0), size), max(min(left + side, size), 0))
    return rows, cols, slice(rows.start - top, rows.stop - top), slice(cols.start - left, cols.stop - left)


def scene_masks(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Return the visible pixels of every shape, and its area without occlusion.

    Returns:
        masks_NTHW: bool, the visible pixels of each shape.
        full_NT: int, its pixels in the frame if nothing occluded it.
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
    """Return a grey texture [H, W, 3] with values from 60 to 170: smooth blobs at two scales, sometimes stripes."""
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


def checks(own: Footprint, frame_idx: int, size: int) -> np.ndarray:
    """Return the pixels of a shape that its checks cover: all cells of 2 x 2 (at even coordinates) inside of it.

    The mean of a cell is the shape's colour, so that a frame of half the size does not show the checks.

    Args:
        own: the shape's coverage.
        frame_idx: the frame.
        size: side of the frame, in pixels.

    Returns:
        bool [H, W].
    """
    rows, cols, from_rows, from_cols = _window(own, frame_idx, size)
    inside_HW = np.zeros((size, size), bool)
    inside_HW[rows, cols] = own.alpha_TWW[frame_idx, from_rows, from_cols] == 1
    even = size // 2 * 2
    cells = inside_HW[:even, :even].reshape(even // 2, 2, even // 2, 2).all(axis=(1, 3))
    out_HW = np.zeros_like(inside_HW)
    out_HW[:even, :even] = cells.repeat(2, axis=0).repeat(2, axis=1)
    return out_HW


def draw_scene(scene: Scene, background_HW3: np.ndarray) -> np.ndarray:
    """Return the RGB frames, uint8 [T, H, W, 3], of a scene in front of a background."""
    frames_THW3 = np.repeat(background_HW3[None], scene.num_frames, axis=0)
    for shape_idx, shape in enumerate(scene.shapes):
        whole, paint_3 = footprint(shape), np.array(shape.paint)
        for t in (int(t) for t in np.flatnonzero(shape.present_T)):
            marks = {mark.kind for mark in scene.marks if mark.shape_idx == shape_idx and t in mark.frames}
            rows, cols, from_rows, from_cols = _window(whole, t, scene.size)
            at = (t, from_rows, from_cols, None)
            is_white_H11 = np.arange(rows.start, rows.stop)[:, None, None] // STRIPE % 2 == 0
            paint = np.where(is_white_H11, 255.0, paint_3) if "flash" in marks else paint_3
            frames_THW3[t, rows, cols] = _blend(frames_THW3[t, rows, cols], paint, whole.alpha_TWW[at])
            if "checkered" in marks:
                ys, xs = np.nonzero(checks(whole, t, scene.size))
                sign = np.where((ys + xs) % 2 == 0, 1.0, -1.0)
                frames_THW3[t, ys, xs] = paint_3 + sign[:, None] * np.minimum(paint_3, 255.0 - paint_3)
    return np.clip(np.round(frames_THW3), 0, 255).astype(np.uint8)


def _blend(below: np.ndarray | float, above: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return alpha * above + (1 - alpha) * below
