"""Metrics of benchmarks besides J and F, on bool masks and on bool frames of a video. Values are 0..1."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment


def pixel_accuracy(gold_HW: np.ndarray, pred_HW: np.ndarray) -> float:
    """Return A of ReVOS: the fraction of pixels on which both agree.

    The released evaluator adds up the masks of a target, so that a pixel with two annotations agrees with nothing.
    """
    return float(np.mean(gold_HW == pred_HW))


def robustness(gold_HW: np.ndarray, pred_HW: np.ndarray, foreground_HW: np.ndarray) -> float:
    """Return R of ReVOS: 1 minus the falsely predicted pixels over those of any annotated object, at least 0.

    Where no object is annotated, one false pixel makes it 0. The released evaluator counts in 8 bits, which overflow
    where annotations overlap.

    Args:
        gold_HW: Mask of the target.
        pred_HW: Predicted mask.
        foreground_HW: Union of all annotated objects.

    Returns:
        0..1.
    """
    false_pixels = np.count_nonzero(pred_HW & ~gold_HW)
    return max(1.0 - false_pixels / (np.count_nonzero(foreground_HW) + 1e-6), 0.0)


def temporal_iou(gold_T: np.ndarray, pred_T: np.ndarray) -> float:
    """Return tIoU of Long-RVOS: frames where both have a mask over frames where either has one; 1 where none has."""
    union = np.count_nonzero(gold_T | pred_T)
    return np.count_nonzero(gold_T & pred_T) / union if union else 1.0


def video_iou(j_T: np.ndarray, gold_T: np.ndarray, pred_T: np.ndarray) -> float:
    """Return vIoU of Long-RVOS: the sum of J over frames where both have a mask, over the frames where either has one.

    Args:
        j_T: J of every frame.
        gold_T: Frames with a gold mask.
        pred_T: Frames with a predicted mask.

    Returns:
        0..1; 1 where no frame has a mask.
    """
    union = np.count_nonzero(gold_T | pred_T)
    return float(j_T[gold_T & pred_T].sum() / union) if union else 1.0


def best_matching(scores_NM: np.ndarray) -> list[int]:
    """Return for each of N rows a column of its own, so that the sum of scores is greatest; N <= M."""
    num_rows, num_columns = scores_NM.shape
    if num_rows > num_columns:
        raise ValueError(f"expected at most as many rows as columns, found {num_rows} x {num_columns}")
    return linear_sum_assignment(scores_NM, maximize=True)[1].tolist()
