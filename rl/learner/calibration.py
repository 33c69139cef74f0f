"""SEG-aware logit calibration: the mask that a [SEG] led to as a term of that token's log-probability.

log p~ = log p_text + w * log p_mask, where log p_mask says how likely the current mask logits make the mask that the
rollout decoded. Both are compared on a small grid.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

GRID = 32

CalibrationFn = Callable[[Tensor, Tensor], Tensor]


def binarise_grid(logits_NHW: Tensor, threshold: float) -> Tensor:
    """EpisodeRunner mask logits as bool [N, 32, 32]: resized bilinearly as logits, then above `threshold` (a logit)."""
    return _resized(logits_NHW.detach()) > threshold


def loglik(logits_NHW: Tensor, grid_NHW: Tensor) -> Tensor:
    """Mean Bernoulli log-likelihood [N] of the rollout's grid mask under the current logits, at most 0."""
    logits_NHW = _resized(logits_NHW)
    signed_NHW = torch.where(grid_NHW, logits_NHW, -logits_NHW)
    return F.logsigmoid(signed_NHW).mean((1, 2))


def soft_iou(logits_NHW: Tensor, grid_NHW: Tensor) -> Tensor:
    """Log of the soft IoU [N] of the probabilities and the rollout's grid mask, one pixel added to both areas."""
    probs_NHW, target_NHW = _resized(logits_NHW).sigmoid(), grid_NHW.float()
    shared_N = (probs_NHW * target_NHW).sum((1, 2))
    union_N = (probs_NHW + target_NHW).sum((1, 2)) - shared_N
    return ((shared_N + 1) / (union_N + 1)).log()


def no_term(logits_NHW: Tensor, grid_NHW: Tensor) -> Tensor:
    """Zeros [N]: [SEG] counts as text alone."""
    return logits_NHW.new_zeros(len(logits_NHW))


CALIBRATIONS: dict[str, CalibrationFn] = {"loglik": loglik, "iou": soft_iou, "none": no_term}


def _resized(logits_NHW: Tensor) -> Tensor:
    """To the grid, in float32 at least."""
    logits_N1HW = logits_NHW[:, None].to(torch.promote_types(logits_NHW.dtype, torch.float32))
    return F.interpolate(logits_N1HW, (GRID, GRID), mode="bilinear", align_corners=False)[:, 0]
