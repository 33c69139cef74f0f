"""Points of a mask to learn from: many random ones, of which the least sure are kept, as in PointRend and Mask2Former.

The borders of a mask are few of its pixels and most of what is left to learn.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

OVERSAMPLED = 3.0  # candidates per point
UNSURE_SHARE = 0.75  # of the points: those whose logit is closest to 0; the others are random


def at_points(logits_NHW: Tensor, gold_NHW: Tensor, num_points: int) -> tuple[Tensor, Tensor]:
    """Both masks at the same `num_points` points each, as [N, 1, P]; the two may differ in size. Random (torch's)."""
    points_NP2 = _pick(logits_NHW.detach(), num_points)
    return _sample(logits_NHW, points_NP2), _sample(gold_NHW, points_NP2)


def _pick(logits_NHW: Tensor, num_points: int) -> Tensor:
    """Points as (x, y) from -1 to 1 over the mask."""
    num, device = len(logits_NHW), logits_NHW.device
    candidates_NQ2 = 2 * torch.rand(num, round(OVERSAMPLED * num_points), 2, device=device) - 1
    num_unsure = round(UNSURE_SHARE * num_points)
    doubt_NQ = -_sample(logits_NHW, candidates_NQ2)[:, 0].abs()
    index_NU = doubt_NQ.topk(num_unsure, dim=1).indices
    unsure_NU2 = candidates_NQ2.gather(1, index_NU[..., None].expand(-1, -1, 2))
    others_NR2 = 2 * torch.rand(num, num_points - num_unsure, 2, device=device) - 1
    return torch.cat([unsure_NU2, others_NR2], dim=1)


def _sample(values_NHW: Tensor, points_NP2: Tensor) -> Tensor:
    """Bilinear, [N, 1, P]; beyond the centres of the border pixels their values hold."""
    grid_N1P2 = points_NP2[:, None]
    sampled = F.grid_sample(values_NHW[:, None], grid_N1P2, padding_mode="border", align_corners=False)
    return sampled[:, 0]
