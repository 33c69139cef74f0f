"""The GRPO policy loss (arXiv 2402.03300) with a mask term at [SEG]. Pure functions of tensors.

The value of `grpo_loss` is a micro-batch's part of the loss of the whole step: the caller passes the step's counts of
tokens and samples, so the parts of all micro-batches and ranks add up to the same loss, however the step is split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from configs.schema import GrpoConfig


@dataclass(frozen=True)
class LossInputs:
    """Tensors of one micro-batch. All [B, L] ones are float but the mask; values outside the mask are ignored."""

    logprobs_BL: Tensor  # of the text under the weights in training; carries the gradient
    old_logprobs_BL: Tensor  # of the text under the weights before the first update
    mask_BL: Tensor  # bool: tokens that the policy wrote
    advantages_B: Tensor
    ref_logprobs_BL: Tensor | None = None  # of the text under the reference policy; needed if kl_coef is not 0
    mask_term_BL: Tensor | None = None  # weighted log p_mask at [SEG], 0 elsewhere; carries gradient
    old_mask_term_BL: Tensor | None = None  # the same before the first update
    sampler_weights_BL: Tensor | None = None  # importance weights of `rl.learner.importance_sampling`
    entropy_BL: Tensor | None = None  # in nats, of the text's distributions; needed if least_entropy is not 0


@dataclass(frozen=True)
class Denominators:
    """Counts of the whole step, over all micro-batches and ranks."""

    num_tokens: int
    num_samples: int
    max_tokens: int = 0  # most tokens that an episode may write; only `dr_grpo` divides by it


Surrogate = Callable[[Tensor, Tensor, Tensor, GrpoConfig], tuple[Tensor, Tensor]]
"""(ratio [B, L], calibrated log-probs [B, L], advantages [B, 1], config) -> (token losses [B, L], is_clipped [B, L]).

`is_clipped` is 1.0 where the clip or the cap holds the token back, else 0.0.
"""

Reduction = Callable[[Tensor, Tensor, Denominators], Tensor]
"""(token losses [B, L], 0 outside the mask; mask [B, L]; counts of the step) -> scalar."""


@dataclass(frozen=True)
class PolicyLoss:
    """A member of LOSSES: the loss of a token, and how the losses of all tokens become one number."""

    surrogate: Surrogate
    reduce: Reduction
    of_sequence: bool = False  # every token has the ratio of its whole sequence


def grpo_loss(inputs: LossInputs, config: GrpoConfig, whole_step: Denominators) -> tuple[Tensor, dict[str, float]]:
    """Compute a micro-batch's part of the step's policy loss.

    The mask term enters the numerator and the denominator of the ratio, as one more factor of the [SEG] token's
    probability (VideoSEG-O3, arXiv 2606.06819), and never the KL.

    Args:
        inputs: Tensors of the micro-batch.
        config: `loss`, clip range, KL, calibration bounds and `least_entropy` are read.
        whole_step: Counts that the loss is divided by.

    Returns:
        The loss, a scalar with gradient, and metrics: means over this micro-batch's trained tokens. To combine
        micro-batches, weight their metrics by their numbers of tokens.

    Raises:
        ValueError: An input that the config needs is missing.
    """
    mask_BL, loss = inputs.mask_BL, LOSSES[config.loss]
    text_BL = torch.where(mask_BL, inputs.logprobs_BL, 0.0)
    old_term_BL, change_BL = _mask_channel(inputs, config)
    log_ratio_BL = torch.where(mask_BL, text_BL - inputs.old_logprobs_BL, 0.0) + change_BL
    if loss.of_sequence:
        log_ratio_BL = _sequence_mean(log_ratio_BL, mask_BL)
    ratio_BL = log_ratio_BL.exp()
    advantages_B1 = inputs.advantages_B[:, None]
    token_loss_BL, clipped_BL = loss.surrogate(ratio_BL, text_BL + old_term_BL + change_BL, advantages_B1, config)
    means = {"policy/ratio/mean": ratio_BL, "policy/clipped/share": clipped_BL}
    if inputs.sampler_weights_BL is not None:
        weights_BL = torch.where(mask_BL, inputs.sampler_weights_BL, 1.0)
        token_loss_BL = token_loss_BL * weights_BL
        means["policy/sampler_weight/mean"] = weights_BL
        means["policy/mismatch/mean"] = weights_BL.log().abs()
    if config.least_entropy > 0:
        decides_BL = _is_decision(inputs, old_term_BL, config.least_entropy)
        token_loss_BL = token_loss_BL * decides_BL
        means["policy/decides/share"] = decides_BL
    if config.kl_coef != 0:
        if inputs.ref_logprobs_BL is None:
            raise ValueError(f"grpo.kl_coef is {config.kl_coef}, so LossInputs.ref_logprobs_BL must be given; got None")
        kl_BL = KLS[config.kl_form](text_BL, torch.where(mask_BL, inputs.ref_logprobs_BL, 0.0))
        token_loss_BL = token_loss_BL + config.kl_coef * kl_BL
        means["policy/kl/mean"] = kl_BL
    value = loss.reduce(token_loss_BL * mask_BL, mask_BL, whole_step)
    return value, {name: _token_mean(values_BL, mask_BL) for name, values_BL in means.items()}


def _mask_channel(inputs: LossInputs, config: GrpoConfig) -> tuple[Tensor, Tensor]:
    """Return the old mask term and the change of the log-ratio by the new one: both [B, L], 0 without a mask.

    `calibration_clip` c limits the change to [-c, c]: a mask that is more than c more (or less) likely than in the
    rollout changes the ratio no further and gets no gradient, whatever the advantage. At the first update of a rollout
    the change is 0, so the limit takes effect from the second on. `calibration_detach` keeps the value and drops the
    gradient, which at the first update leaves that of the text alone.
    """
    new_BL, old_BL = inputs.mask_term_BL, inputs.old_mask_term_BL
    if new_BL is None and old_BL is None:
        nothing_BL = torch.zeros_like(inputs.old_logprobs_BL)
        return nothing_BL, nothing_BL
    if new_BL is None or old_BL is None:
        raise ValueError("expected both of mask_term_BL and old_mask_term_BL or neither; got only one of them")
    change_BL = torch.where(inputs.mask_BL, new_BL - old_BL, 0.0)
    if config.calibration_clip > 0:
        change_BL = change_BL.clamp(-config.calibration_clip, config.calibration_clip)
    if config.calibration_detach:
        change_BL = change_BL.detach()
    return torch.where(inputs.mask_BL, old_BL, 0.0), change_BL


def _is_decision(inputs: LossInputs, old_term_BL: Tensor, least_entropy: float) -> Tensor:
    """Return 1.0 where the policy was uncertain or produced a mask, else 0.0: [B, L].

    A token written with certainty decided nothing, yet it gets the advantage of the decisions around it (Wang et al.
    2025, arXiv 2506.01939; TRL's `top_entropy_quantile`). The bound is a number of nats and not a quantile, so that a
    token's weight does not depend on the other tokens of its micro-batch.
    """
    if inputs.entropy_BL is None:
        raise ValueError(f"grpo.least_entropy is {least_entropy}, so LossInputs.entropy_BL must be given; got None")
    return ((inputs.entropy_BL >= least_entropy) | (old_term_BL != 0)).float()


def _sequence_mean(values_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Replace every value with the mean over its sequence's trained tokens."""
    means_B1 = (values_BL * mask_BL).sum(1, keepdim=True) / mask_BL.sum(1, keepdim=True).clamp(min=1)
    return means_B1.expand_as(values_BL)


def _clipped(ratio_BL: Tensor, logprobs_BL: Tensor, advantages_B1: Tensor, config: GrpoConfig) -> tuple[Tensor, Tensor]:
    """Return PPO's clipped loss (arXiv 1707.06347): the worse of ratio and clipped ratio, so no gain beyond the clip.

    Separate bounds below and above are DAPO's "clip higher" (arXiv 2503.14476).
    """
    clipped_BL = ratio_BL.clamp(1 - config.clip_low, 1 + config.clip_high)
    token_loss_BL = -torch.minimum(ratio_BL * advantages_B1, clipped_BL * advantages_B1)
    low_BL = (ratio_BL < 1 - config.clip_low) & (advantages_B1 < 0)
    high_BL = (ratio_BL > 1 + config.clip_high) & (advantages_B1 > 0)
    return token_loss_BL, (low_BL | high_BL).float()


def _capped(ratio_BL: Tensor, logprobs_BL: Tensor, advantages_B1: Tensor, config: GrpoConfig) -> tuple[Tensor, Tensor]:
    """Return CISPO's loss (MiniMax-M1, arXiv 2506.13585): the ratio is a weight of at most `clip_high`.

    The weight carries no gradient; the log-prob does, so every token keeps one. The cap acts on both signs of the
    advantage, but like TRL only tokens of positive advantage are counted as clipped.
    """
    weights_BL = ratio_BL.detach().clamp(max=config.clip_high)
    high_BL = (ratio_BL > config.clip_high) & (advantages_B1 > 0)
    return -weights_BL * advantages_B1 * logprobs_BL, high_BL.float()


def _k1(logprobs_BL: Tensor, ref_logprobs_BL: Tensor) -> Tensor:
    """Return the plain log-ratio: an unbiased estimate of either sign. As a loss, its on-policy gradient has mean 0."""
    return logprobs_BL - ref_logprobs_BL


def _k2(logprobs_BL: Tensor, ref_logprobs_BL: Tensor) -> Tensor:
    """Return half the squared log-ratio: a biased estimate; on-policy its gradient is that of KL(policy || ref)."""
    return (logprobs_BL - ref_logprobs_BL).square() / 2


def _k3(logprobs_BL: Tensor, ref_logprobs_BL: Tensor) -> Tensor:
    """Return an unbiased estimate that is never negative; on-policy its gradient is that of KL(ref || policy)."""
    difference_BL = ref_logprobs_BL - logprobs_BL
    return difference_BL.exp() - difference_BL - 1


# Schulman's estimates of KL(policy || reference) from the sampled tokens, http://joschu.net/blog/kl-approx.html
KLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": _k1, "k2": _k2, "k3": _k3}


def _token_mean(values_BL: Tensor, mask_BL: Tensor) -> float:
    return ((values_BL.detach() * mask_BL).sum() / mask_BL.sum().clamp(min=1)).item()


def _sample_means(token_loss_BL: Tensor, mask_BL: Tensor, whole_step: Denominators) -> Tensor:
    """Average the token means of all samples (arXiv 2402.03300): tokens of short samples have more weight."""
    return (token_loss_BL.sum(1) / mask_BL.sum(1).clamp(min=1)).sum() / whole_step.num_samples


def _token_means(token_loss_BL: Tensor, mask_BL: Tensor, whole_step: Denominators) -> Tensor:
    """Average over all trained tokens of the step (arXiv 2503.14476)."""
    return token_loss_BL.sum() / max(1, whole_step.num_tokens)


def _constant(token_loss_BL: Tensor, mask_BL: Tensor, whole_step: Denominators) -> Tensor:
    """Divide the sum over tokens by a constant length, so that length has no influence (arXiv 2503.20783)."""
    if whole_step.max_tokens < 1:
        raise ValueError(f"loss dr_grpo needs Denominators.max_tokens of at least 1, got {whole_step.max_tokens}")
    return token_loss_BL.sum() / (whole_step.num_samples * whole_step.max_tokens)


# GRPO arXiv 2402.03300, Dr. GRPO 2503.20783, DAPO 2503.14476, GSPO 2507.18071, CISPO 2506.13585. TRL's bnpo averages
# over the tokens of each micro-batch; here it averages over those of the step, as dapo does.
LOSSES: dict[str, PolicyLoss] = {
    "grpo": PolicyLoss(_clipped, _sample_means),
    "bnpo": PolicyLoss(_clipped, _token_means),
    "dr_grpo": PolicyLoss(_clipped, _constant),
    "dapo": PolicyLoss(_clipped, _token_means),
    "gspo": PolicyLoss(_clipped, _sample_means, of_sequence=True),
    "cispo": PolicyLoss(_capped, _token_means),
}
