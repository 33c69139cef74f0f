"""A policy loss: SAPO (arXiv 2511.20347), which fades tokens out smoothly where PPO clips them."""

from __future__ import annotations

import torch
from torch import Tensor

from configs.schema import GrpoConfig
from rl.learner.policy_loss import LOSSES, PolicyLoss

GOOD, BAD = 1.0, 1.05  # temperatures for tokens of positive and negative advantage, as in the paper


def gated(ratio_BL: Tensor, logprobs_BL: Tensor, advantages_B1: Tensor, config: GrpoConfig) -> tuple[Tensor, Tensor]:
    """Weight the advantage by a sigmoid of the ratio, whose slope is 1 at a ratio of 1 and falls off on both sides.

    Args:
        ratio_BL: Probability of each token now over that before the first update, above 0.
        logprobs_BL: Log-probabilities; not needed here.
        advantages_B1: One per trajectory.
        config: Settings of the run; not needed here.

    Returns:
        The loss of each token [B, L], and a tensor [B, L] that is 1.0 where a token was clipped: nowhere.
    """
    temperature_B1 = torch.where(advantages_B1 > 0, GOOD, BAD)
    gate_BL = torch.sigmoid(temperature_B1 * (ratio_BL - 1)) * 4 / temperature_B1
    return -gate_BL * advantages_B1, torch.zeros_like(ratio_BL)


SAPO = PolicyLoss(gated, LOSSES["grpo"].reduce)  # mean over each sample's tokens, then over samples
