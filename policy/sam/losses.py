"""Losses of predicted masks, and masks from logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mask_losses(
    logits_NHW: Tensor, presence_N: Tensor, gold_NHW: Tensor, num_points: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """BCE and dice per mask and BCE of the presence logit, each [N]; masks without the target only train presence.

    `gold_NHW` is bool or 0..1 at any size; the logits are resized to it, as in SAM 2's own training: borders are learnt
    as sharp as they are judged. With `num_points` BCE and dice are those of so many points (`policy.sam.losses`).
    """
    gold_NHW = gold_NHW.float()
    present_N = (gold_NHW.flatten(1).amax(1) > 0).float()
    if num_points:
        logits_NHW, gold_NHW = at_points(logits_NHW, gold_NHW, num_points)
    else:
        logits_NHW = F.interpolate(logits_NHW[:, None], gold_NHW.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    bce_N = F.binary_cross_entropy_with_logits(logits_NHW, gold_NHW, reduction="none").flatten(1).mean(1)
    probability, target = logits_NHW.sigmoid().flatten(1), gold_NHW.flatten(1)
    dice_N = 1 - (2 * (probability * target).sum(1) + 1) / (probability.sum(1) + target.sum(1) + 1)
    presence_loss_N = F.binary_cross_entropy_with_logits(presence_N, present_N, reduction="none")
    return bce_N * present_N, dice_N * present_N, presence_loss_N


def binary_masks(logits_NHW: Tensor, presence_N: Tensor, height: int, width: int) -> Tensor:
    """Boolean masks [N, height, width]: logit above 0 where SAM 2 judges the object present."""
    full = F.interpolate(logits_NHW[:, None].float(), (height, width), mode="bilinear", align_corners=False)[:, 0]
    return (full > 0) & (presence_N[:, None, None] > 0)


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
