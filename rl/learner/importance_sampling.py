"""Truncated importance weights, which correct for a sampler whose log-probs differ from the learner's.

The engine rounds differently, and with `grpo.rollout_ahead` its weights are one step old. Truncation follows Yao et al.
2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", and TRL.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def importance_weights(
    old_BL: Tensor, sampling_BL: Tensor, mask_BL: Tensor, cap: float, level: str = "token"
) -> Tensor:
    """Return min(p_learner / p_sampler, cap) at every token, without gradient.

    Args:
        old_BL: [B, L] the learner's log-probs of the rollout.
        sampling_BL: [B, L] the sampler's log-probs of the same tokens.
        mask_BL: [B, L] bool, tokens that the policy wrote.
        cap: Largest weight, above 0.
        level: A key of LEVELS. "token" compares each token alone and is 1 outside the mask; "sequence" gives every
            token the ratio of its whole sequence. TRL calls them `token_truncate` and `sequence_truncate`.

    Returns:
        [B, L] weights in (0, cap].
    """
    differences_BL = torch.where(mask_BL, old_BL - sampling_BL, 0.0).detach()
    return LEVELS[level](differences_BL).exp().clamp(max=cap)


def _of_token(differences_BL: Tensor) -> Tensor:
    return differences_BL


def _of_sequence(differences_BL: Tensor) -> Tensor:
    return differences_BL.sum(1, keepdim=True).expand_as(differences_BL)


LEVELS: dict[str, Callable[[Tensor], Tensor]] = {"token": _of_token, "sequence": _of_sequence}
