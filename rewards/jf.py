"""J (region), F (contour) and their DAVIS statistics: one implementation for rewards and for benchmarks.

Perazzi et al., A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation (CVPR 2016), as the
official davis2017-evaluation computes it. Values are 0..1.
"""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np

BOUND = 0.008  # contour tolerance as a share of the image diagonal


def region_j(gold_HW: np.ndarray, pred_HW: np.ndarray) -> float:
    """Intersection over union of two bool masks; 1 where both are empty."""
    _check_shapes(gold_HW, pred_HW)
    union = np.count_nonzero(gold_HW | pred_HW)
    return float(np.count_nonzero(gold_HW & pred_HW) / union) if union else 1.0


def boundary_f(gold_HW: np.ndarray, pred_HW: np.ndarray) -> float:
    """F-measure of the contours of two bool masks, matched within `BOUND` of the diagonal; 1 where neither has one."""
    _check_shapes(gold_HW, pred_HW)
    if np.array_equal(gold_HW, pred_HW):
        return 1.0
    height, width = gold_HW.shape
    rows, columns = _crop(gold_HW | pred_HW)
    gold_edge_HW, pred_edge_HW = _boundary(gold_HW[rows, columns]), _boundary(pred_HW[rows, columns])
    disk = _disk(math.ceil(BOUND * math.hypot(height, width)))
    num_gold, num_pred = np.count_nonzero(gold_edge_HW), np.count_nonzero(pred_edge_HW)
    if num_gold == 0 or num_pred == 0:
        return float(num_gold == num_pred)
    precision = np.count_nonzero(pred_edge_HW & cv2.dilate(gold_edge_HW, disk)) / num_pred
    recall = np.count_nonzero(gold_edge_HW & cv2.dilate(pred_edge_HW, disk)) / num_gold
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def tracklet_jf(gold_THW: np.ndarray, pred_THW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """J and F of every frame, two float arrays [T]."""
    pairs = list(zip(gold_THW, pred_THW, strict=True))
    j_T = np.array([region_j(gold_HW, pred_HW) for gold_HW, pred_HW in pairs])
    f_T = np.array([boundary_f(gold_HW, pred_HW) for gold_HW, pred_HW in pairs])
    return j_T, f_T


def statistics(values_T: np.ndarray) -> tuple[float, float, float]:
    """Mean, recall (share above 0.5) and decay (mean of the first quarter minus mean of the last).

    The quarters share their border frames. The official code keeps the borders in 8 bits, so beyond 256 frames its
    decay is taken over wrong frames; ours is not.
    """
    borders = np.round(np.linspace(1, len(values_T), 5) + 1e-10).astype(int) - 1
    first, last = values_T[: borders[1] + 1], values_T[borders[3] :]
    return float(np.mean(values_T)), float(np.mean(values_T > 0.5)), float(np.mean(first) - np.mean(last))


def _check_shapes(gold_HW: np.ndarray, pred_HW: np.ndarray) -> None:
    if gold_HW.shape != pred_HW.shape or gold_HW.dtype != bool or pred_HW.dtype != bool:
        found = f"{gold_HW.dtype} {gold_HW.shape} and {pred_HW.dtype} {pred_HW.shape}"
        raise ValueError(f"expected two bool masks of one shape, found {found}")


def _crop(union_HW: np.ndarray) -> tuple[slice, slice]:
    """The bounding box of a mask, one pixel wider on the upper left, where contours may lie outside of their mask.

    Exact: all contour pixels lie inside, and contours are only compared at contour pixels.
    """
    spans = []
    for axis, size in ((1, union_HW.shape[0]), (0, union_HW.shape[1])):
        used = np.flatnonzero(union_HW.any(axis))
        spans.append(slice(max(0, used[0] - 1), min(size, used[-1] + 2)))
    return spans[0], spans[1]


def _boundary(mask_HW: np.ndarray) -> np.ndarray:
    """Contour map, uint8 0/1: pixels that differ from their right, lower or lower right neighbour.

    On the last row and column only neighbours inside the image count, so the image's border is no contour.
    """
    padded_HW = np.pad(mask_HW, ((0, 1), (0, 1)), mode="edge")
    right_HW, below_HW, diagonal_HW = padded_HW[:-1, 1:], padded_HW[1:, :-1], padded_HW[1:, 1:]
    return ((mask_HW ^ right_HW) | (mask_HW ^ below_HW) | (mask_HW ^ diagonal_HW)).astype(np.uint8)


@lru_cache
def _disk(radius: int) -> np.ndarray:
    offsets = np.arange(-radius, radius + 1)
    return (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.uint8)
