"""Losses of mask logits, and binary masks from them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

OVERSAMPLING = 3.0  # candidate points per point
UNCERTAIN_PART = 0.75  # of the points: the candidates whose logits are closest to 0; the others are random


def mask_losses(
    logits_NHW: Tensor, presence_N: Tensor | None, gold_NHW: Tensor, num_points: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return BCE and dice of each mask and BCE of each presence logit.

    The logits are resized to the gold masks, as in SAM 2's own training, so that borders are trained at the resolution
    of the metrics. Where presence logits blank masks, those without the target train only presence: their BCE and dice
    are 0. Where they do not, nothing but BCE and dice teaches a mask to be empty (released VideoSEG-O3).

    Args:
        logits_NHW: Mask logits of any size.
        presence_N: Presence logits; None if they do not blank masks, and are not trained.
        gold_NHW: Gold masks of any size, bool or 0..1.
        num_points: Evaluate BCE and dice at so many sampled points (`at_points`); 0: at all pixels.

    Returns:
        BCE [N] and dice [N] of the masks, BCE [N] of presence.
    """
    gold_NHW = gold_NHW.float()
    present_N = (gold_NHW.flatten(1).amax(1) > 0).float()  # before points replace the pixels
    if num_points:
        logits_NHW, gold_NHW = at_points(logits_NHW, gold_NHW, num_points)
    else:
        logits_NHW = F.interpolate(logits_NHW[:, None], gold_NHW.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    bce_N = F.binary_cross_entropy_with_logits(logits_NHW, gold_NHW, reduction="none").flatten(1).mean(1)
    probability, target = logits_NHW.sigmoid().flatten(1), gold_NHW.flatten(1)
    dice_N = 1 - (2 * (probability * target).sum(1) + 1) / (probability.sum(1) + target.sum(1) + 1)
    if presence_N is None:
        return bce_N, dice_N, torch.zeros_like(bce_N)
    presence_loss_N = F.binary_cross_entropy_with_logits(presence_N, present_N, reduction="none")
    return bce_N * present_N, dice_N * present_N, presence_loss_N


def binary_masks(logits_NHW: Tensor, presence_N: Tensor | None, height: int, width: int) -> Tensor:
    """Return boolean masks [N, height, width]: logits above 0, and empty where presence is not above 0.

    Args:
        logits_NHW: Mask logits of any size.
        presence_N: Presence logits; None if they do not blank masks.
        height: Of the masks, in pixels.
        width: Of the masks, in pixels.
    """
    full = F.interpolate(logits_NHW[:, None].float(), (height, width), mode="bilinear", align_corners=False)[:, 0]
    return full > 0 if presence_N is None else (full > 0) & (presence_N[:, None, None] > 0)


def at_points(logits_NHW: Tensor, gold_NHW: Tensor, num_points: int) -> tuple[Tensor, Tensor]:
    """Sample logits and gold masks at the same points, most of them where the logits are uncertain.

    This is the point sampling of PointRend (arXiv 1912.08193), which Mask2Former and Sa2VA train masks with.

    Args:
        logits_NHW: Mask logits of any size; the choice of points takes no gradient.
        gold_NHW: Gold masks, float, of the same or another size.
        num_points: Points per mask, chosen with torch's random generator.

    Returns:
        Logits and gold values, each [N, 1, num_points].
    """
    points_NP2 = _pick(logits_NHW.detach(), num_points)
    return _sample(logits_NHW, points_NP2), _sample(gold_NHW, points_NP2)


def _pick(logits_NHW: Tensor, num_points: int) -> Tensor:
    """Choose points [N, P, 2] as (x, y), from -1 to 1 over the mask."""
    num, device = len(logits_NHW), logits_NHW.device
    candidates_NQ2 = 2 * torch.rand(num, round(OVERSAMPLING * num_points), 2, device=device) - 1
    num_uncertain = round(UNCERTAIN_PART * num_points)
    uncertainty_NQ = -_sample(logits_NHW, candidates_NQ2)[:, 0].abs()
    index_NU = uncertainty_NQ.topk(num_uncertain, dim=1).indices
    uncertain_NU2 = candidates_NQ2.gather(1, index_NU[..., None].expand(-1, -1, 2))
    others_NR2 = 2 * torch.rand(num, num_points - num_uncertain, 2, device=device) - 1
    return torch.cat([uncertain_NU2, others_NR2], dim=1)


def _sample(values_NHW: Tensor, points_NP2: Tensor) -> Tensor:
    """Interpolate bilinearly to [N, 1, P]; outside the centres of the border pixels, take their values."""
    grid_N1P2 = points_NP2[:, None]
    sampled = F.grid_sample(values_NHW[:, None], grid_N1P2, padding_mode="border", align_corners=False)
    return sampled[:, 0]
