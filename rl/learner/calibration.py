"""SEG-aware logit calibration (VideoSEG-O3, arXiv 2606.06819): a mask as part of the log-probability of its [SEG].

log p~ = log p_text + w * log p_mask, where log p_mask is the log-likelihood of the mask that the rollout decoded under
the current mask logits. Both masks are compared on a small grid.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

GRID = 32

CalibrationFn = Callable[[Tensor, Tensor], Tensor]


def binarise_grid(logits_NHW: Tensor, threshold: float) -> Tensor:
    """Return the rollout's masks on the grid, bool [N, GRID, GRID]: resized logits [N, H, W] above `threshold`."""
    return _resized(logits_NHW.detach()) > threshold


def loglik(logits_NHW: Tensor, grid_NHW: Tensor) -> Tensor:
    """Return the mean Bernoulli log-likelihood [N] of the grid masks under mask logits [N, H, W]; at most 0."""
    logits_NHW = _resized(logits_NHW)
    signed_NHW = torch.where(grid_NHW, logits_NHW, -logits_NHW)
    return F.logsigmoid(signed_NHW).mean((1, 2))


def soft_iou(logits_NHW: Tensor, grid_NHW: Tensor) -> Tensor:
    """Return the log of the soft IoU [N] of grid masks and mask probabilities, with one pixel added to both areas."""
    probs_NHW, target_NHW = _resized(logits_NHW).sigmoid(), grid_NHW.float()
    shared_N = (probs_NHW * target_NHW).sum((1, 2))
    union_N = (probs_NHW + target_NHW).sum((1, 2)) - shared_N
    return ((shared_N + 1) / (union_N + 1)).log()


def no_term(logits_NHW: Tensor, grid_NHW: Tensor) -> Tensor:
    """Return zeros [N]: [SEG] has the log-probability of its text alone."""
    return logits_NHW.new_zeros(len(logits_NHW))


CALIBRATIONS: dict[str, CalibrationFn] = {"loglik": loglik, "iou": soft_iou, "none": no_term}


def _resized(logits_NHW: Tensor) -> Tensor:
    """Return logits [N, H, W] resized to [N, GRID, GRID], in float32 or wider."""
    logits_N1HW = logits_NHW[:, None].to(torch.promote_types(logits_NHW.dtype, torch.float32))
    return F.interpolate(logits_N1HW, (GRID, GRID), mode="bilinear", align_corners=False)[:, 0]
