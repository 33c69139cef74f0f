"""J (region), F (contour) and their DAVIS statistics, for rewards and for benchmarks.

Perazzi et al., A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation (CVPR 2016), as the
official davis2017-evaluation computes it. Values are 0..1.
"""

from __future__ import annotations

import math

import numpy as np

from rewards.packed_masks import MaskPair

BOUND = 0.008  # contour tolerance as a fraction of the image diagonal


def region_j(gold_HW: np.ndarray, pred_HW: np.ndarray) -> float:
    """Return the intersection over union of two bool masks; 1 where both are empty."""
    return _j(_pair(gold_HW, pred_HW))


def boundary_f(gold_HW: np.ndarray, pred_HW: np.ndarray) -> float:
    """Return the F-measure of two bool masks' contours, matched within `BOUND` of the diagonal; 1 without contours."""
    return _f(_pair(gold_HW, pred_HW))


def frame_jf(gold_HW: np.ndarray, pred_HW: np.ndarray) -> tuple[float, float]:
    """Return J and F of one frame, at little more than the cost of F."""
    pair = _pair(gold_HW, pred_HW)
    return _j(pair), _f(pair)


def tracklet_jf(gold_THW: np.ndarray, pred_THW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return J and F of every frame, two float arrays [T]."""
    pairs = [frame_jf(gold_HW, pred_HW) for gold_HW, pred_HW in zip(gold_THW, pred_THW, strict=True)]
    j_T, f_T = np.array(pairs, np.float64).reshape(-1, 2).T
    return j_T, f_T


def statistics(values_T: np.ndarray) -> tuple[float, float, float]:
    """Return mean, recall (fraction above 0.5) and decay (mean of the first quarter minus mean of the last).

    Neighbouring quarters have their border frame in common. The official code keeps the borders in 8 bits, so that
    beyond 256 frames it takes wrong quarters; this one does not.
    """
    borders = np.round(np.linspace(1, len(values_T), 5) + 1e-10).astype(int) - 1
    first, last = values_T[: borders[1] + 1], values_T[borders[3] :]
    return float(np.mean(values_T)), float(np.mean(values_T > 0.5)), float(np.mean(first) - np.mean(last))


def _pair(gold_HW: np.ndarray, pred_HW: np.ndarray) -> MaskPair:
    if gold_HW.shape != pred_HW.shape or gold_HW.dtype != bool or pred_HW.dtype != bool:
        found = f"{gold_HW.dtype} {gold_HW.shape} and {pred_HW.dtype} {pred_HW.shape}"
        raise ValueError(f"expected two bool masks of one shape, found {found}")
    return MaskPair(gold_HW, pred_HW, radius=math.ceil(BOUND * math.hypot(*gold_HW.shape)))


def _j(pair: MaskPair) -> float:
    intersection, union = pair.overlap()
    return intersection / union if union else 1.0


def _f(pair: MaskPair) -> float:
    num_gold, num_pred, gold_hits, pred_hits = pair.match_contours()
    if num_gold == 0 or num_pred == 0:
        return float(num_gold == num_pred)
    precision, recall = pred_hits / num_pred, gold_hits / num_gold
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
