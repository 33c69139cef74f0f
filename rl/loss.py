"""The GRPO policy loss with a mask channel at [SEG]. Pure functions of tensors.

`grpo_loss` returns a micro-batch's share of the loss of a whole step: its caller passes the step's token and sample
counts, so the shares of all micro-batches (and ranks) add up to the same loss however the step is split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LossSettings:
    loss: str = "dapo"  # a key of LOSSES
    clip_low: float = 0.2  # the ratio is clipped to [1 - clip_low, 1 + clip_high]
    clip_high: float = 0.2
    kl_coef: float = 0.0  # weight of the k3 KL to the reference policy
    max_tokens: int = 0  # most trained tokens of a sequence; only `dr_grpo` divides by it


@dataclass(frozen=True)
class LossInputs:
    """One micro-batch. All [B, L] tensors are float but the mask; values outside of the mask are ignored."""

    logprobs_BL: Tensor  # of the text under the weights that learn; carries the gradient
    old_logprobs_BL: Tensor  # of the text under the weights before the first update
    mask_BL: Tensor  # bool: tokens that the policy wrote
    advantages_B: Tensor
    ref_logprobs_BL: Tensor | None = None  # of the text under the reference policy; needed where kl_coef is not 0
    mask_term_BL: Tensor | None = None  # weighted log p_mask at [SEG], 0 elsewhere; carries gradient
    old_mask_term_BL: Tensor | None = None  # the same before the first update
    sampler_weights_BL: Tensor | None = None  # see `importance_weights`


@dataclass(frozen=True)
class Denominators:
    """Counts of the whole step, over all micro-batches and ranks."""

    num_tokens: int
    num_samples: int
    max_tokens: int


Reduction = Callable[[Tensor, Tensor, Denominators], Tensor]


def importance_weights(old_BL: Tensor, sampling_BL: Tensor, mask_BL: Tensor, cap: float) -> Tensor:
    """min(p_learner / p_sampler, cap) of every token, 1 outside of the mask; no gradient.

    TRL's `token_truncate`: corrects for a sampler whose numbers differ from the learner's.
    """
    difference_BL = torch.where(mask_BL, old_BL - sampling_BL, 0.0).detach()
    return difference_BL.exp().clamp(max=cap)


def grpo_loss(
    inputs: LossInputs, settings: LossSettings, num_tokens: int, num_samples: int
) -> tuple[Tensor, dict[str, float]]:
    """The micro-batch's share of the step's loss (a scalar with gradient), and metrics.

    `num_tokens` and `num_samples` count what the whole step trains. Metrics are means over this micro-batch's trained
    tokens: weight them by their number to put micro-batches together. The mask term enters the numerator and the
    denominator of the ratio, never the KL.
    """
    mask_BL = inputs.mask_BL
    text_BL = torch.where(mask_BL, inputs.logprobs_BL, 0.0)
    log_ratio_BL = torch.where(mask_BL, text_BL - inputs.old_logprobs_BL, 0.0) + _mask_log_ratio(inputs)
    ratio_BL = log_ratio_BL.exp()
    clipped_BL = ratio_BL.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    advantages_B1 = inputs.advantages_B[:, None]
    token_loss_BL = -torch.minimum(ratio_BL * advantages_B1, clipped_BL * advantages_B1)
    means = {
        "policy/ratio/mean": ratio_BL,
        "policy/clipped/share": _clipped(ratio_BL, advantages_B1, settings),
    }
    if inputs.sampler_weights_BL is not None:
        weights_BL = torch.where(mask_BL, inputs.sampler_weights_BL, 1.0)
        token_loss_BL = token_loss_BL * weights_BL
        means["policy/sampler_weight/mean"] = weights_BL
        means["policy/mismatch/mean"] = weights_BL.log().abs()
    if settings.kl_coef != 0:
        if inputs.ref_logprobs_BL is None:
            raise ValueError(f"kl_coef is {settings.kl_coef}, but there are no reference log-probs")
        kl_BL = _k3(text_BL, torch.where(mask_BL, inputs.ref_logprobs_BL, 0.0))
        token_loss_BL = token_loss_BL + settings.kl_coef * kl_BL
        means["policy/kl/mean"] = kl_BL
    whole = Denominators(num_tokens, num_samples, settings.max_tokens)
    loss = LOSSES[settings.loss](token_loss_BL * mask_BL, mask_BL, whole)
    return loss, {name: _token_mean(values_BL, mask_BL) for name, values_BL in means.items()}


def _mask_log_ratio(inputs: LossInputs) -> Tensor | float:
    """New minus old mask term; both or neither must be given."""
    new, old = inputs.mask_term_BL, inputs.old_mask_term_BL
    if new is None and old is None:
        return 0.0
    if new is None or old is None:
        raise ValueError("mask_term_BL and old_mask_term_BL go together; found only one of them")
    return torch.where(inputs.mask_BL, new - old, 0.0)


def _k3(logprobs_BL: Tensor, ref_logprobs_BL: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(policy || reference): never negative, low variance."""
    difference_BL = ref_logprobs_BL - logprobs_BL
    return difference_BL.exp() - difference_BL - 1


def _clipped(ratio_BL: Tensor, advantages_B1: Tensor, settings: LossSettings) -> Tensor:
    """1.0 where clipping takes the gradient away."""
    low_BL = (ratio_BL < 1 - settings.clip_low) & (advantages_B1 < 0)
    high_BL = (ratio_BL > 1 + settings.clip_high) & (advantages_B1 > 0)
    return (low_BL | high_BL).float()


def _token_mean(values_BL: Tensor, mask_BL: Tensor) -> float:
    return ((values_BL.detach() * mask_BL).sum() / mask_BL.sum().clamp(min=1)).item()


def _sample_means(token_loss_BL: Tensor, mask_BL: Tensor, whole: Denominators) -> Tensor:
    """Mean over samples of each sample's token mean: short samples' tokens weigh more."""
    return (token_loss_BL.sum(1) / mask_BL.sum(1).clamp(min=1)).sum() / whole.num_samples


def _token_means(token_loss_BL: Tensor, mask_BL: Tensor, whole: Denominators) -> Tensor:
    """Mean over all trained tokens of the step."""
    return token_loss_BL.sum() / max(1, whole.num_tokens)


def _constant(token_loss_BL: Tensor, mask_BL: Tensor, whole: Denominators) -> Tensor:
    """Sum over tokens by a length that does not depend on what was written (Dr. GRPO)."""
    if whole.max_tokens < 1:
        raise ValueError("loss dr_grpo divides by the most tokens of a sequence: set LossSettings.max_tokens")
    return token_loss_BL.sum() / (whole.num_samples * whole.max_tokens)


# Where TRL's bnpo takes the mean over each micro-batch's own tokens, ours takes it over the step's, as dapo does.
LOSSES: dict[str, Reduction] = {
    "grpo": _sample_means,
    "bnpo": _token_means,
    "dr_grpo": _constant,
    "dapo": _token_means,
}
