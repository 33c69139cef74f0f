"""Figures of benchmarks beside J and F, on bool masks and on what was found in a video. Values are 0..1."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment


def pixel_accuracy(gold_HW: np.ndarray, pred_HW: np.ndarray) -> float:
    """A of ReVOS: the share of pixels on which both agree.

    The released evaluator adds the masks of a target up, so that a pixel of two annotations equals no prediction.
    """
    return float(np.mean(gold_HW == pred_HW))


def robustness(gold_HW: np.ndarray, pred_HW: np.ndarray, foreground_HW: np.ndarray) -> float:
    """R of ReVOS: 1 less the falsely predicted pixels over those of any annotated object, at least 0.

    Where no object is annotated at all, one false pixel makes it 0. The released evaluator counts in 8 bits, which
    wraps where annotations overlap.
    """
    false_pixels = np.count_nonzero(pred_HW & ~gold_HW)
    return max(1.0 - false_pixels / (np.count_nonzero(foreground_HW) + 1e-6), 0.0)


def temporal_iou(gold_T: np.ndarray, pred_T: np.ndarray) -> float:
    """tIoU of Long-RVOS: frames where both have a mask over those where either has one (bool [T]); 1 where none has."""
    union = np.count_nonzero(gold_T | pred_T)
    return np.count_nonzero(gold_T & pred_T) / union if union else 1.0


def video_iou(j_T: np.ndarray, gold_T: np.ndarray, pred_T: np.ndarray) -> float:
    """vIoU of Long-RVOS: the J of frames where both have a mask, summed, over the number where either has one."""
    union = np.count_nonzero(gold_T | pred_T)
    return float(j_T[gold_T & pred_T].sum() / union) if union else 1.0


def best_matching(scores_NM: np.ndarray) -> list[int]:
    """For each of N rows the column it is given, all different, so that the sum of scores is greatest; N <= M."""
    num_rows, num_columns = scores_NM.shape
    if num_rows > num_columns:
        raise ValueError(f"expected at most as many rows as columns, found {num_rows} x {num_columns}")
    return linear_sum_assignment(scores_NM, maximize=True)[1].tolist()
