"""Truncated importance weights: what corrects for a sampler whose numbers differ from the learner's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def importance_weights(
    old_BL: Tensor, sampling_BL: Tensor, mask_BL: Tensor, cap: float, level: str = "token"
) -> Tensor:
    """min(p_learner / p_sampler, cap) at every token, no gradient; `level` is a key of LEVELS.

    "token" takes the ratio of the token alone, and is 1 outside of the mask; "sequence" gives each token the ratio of
    all that the policy wrote in its sequence. TRL's `token_truncate` and `sequence_truncate`.
    """
    differences_BL = torch.where(mask_BL, old_BL - sampling_BL, 0.0).detach()
    return LEVELS[level](differences_BL).exp().clamp(max=cap)


def _of_token(differences_BL: Tensor) -> Tensor:
    return differences_BL


def _of_sequence(differences_BL: Tensor) -> Tensor:
    return differences_BL.sum(1, keepdim=True).expand_as(differences_BL)


LEVELS: dict[str, Callable[[Tensor], Tensor]] = {"token": _of_token, "sequence": _of_sequence}
