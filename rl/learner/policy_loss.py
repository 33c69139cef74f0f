"""The GRPO policy loss with a mask channel at [SEG]. Pure functions of tensors.

`grpo_loss` returns a micro-batch's share of the loss of a whole step: its caller passes the step's token and sample
counts, so the shares of all micro-batches (and ranks) add up to the same loss however the step is split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from configs.schema import GrpoConfig


@dataclass(frozen=True)
class LossSettings:
    loss: str = "dapo"  # a key of LOSSES
    clip_low: float = 0.2  # the ratio is clipped to [1 - clip_low, 1 + clip_high]
    clip_high: float = 0.2  # `cispo` caps the ratio at clip_high itself
    kl_coef: float = 0.0  # weight of the KL to the reference policy
    max_tokens: int = 0  # most trained tokens of a sequence; only `dr_grpo` divides by it
    kl_form: str = "k3"  # a key of KLS
    calibration_clip: float = 0.0  # most that the mask term moves the log-ratio, either way; 0: as far as it likes
    calibration_detach: bool = False  # the mask term counts in the ratio and sends no gradient
    least_entropy: float = 0.0  # nats; tokens of less, and without a mask term, learn from the KL alone


def loss_settings(config: GrpoConfig, max_tokens: int) -> LossSettings:
    """The settings that a config asks for; `max_tokens` is the most that an episode may write."""
    return LossSettings(
        loss=config.loss,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        kl_coef=config.kl_coef,
        max_tokens=max_tokens,
        kl_form=config.kl_form,
        calibration_clip=config.calibration_clip,
        calibration_detach=config.calibration_detach,
        least_entropy=config.least_entropy,
    )


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
    sampler_weights_BL: Tensor | None = None  # see `rl.learner.importance_sampling`
    entropy_BL: Tensor | None = None  # nats, of the distributions behind the text; needed where least_entropy is not 0


@dataclass(frozen=True)
class Denominators:
    """Counts of the whole step, over all micro-batches and ranks."""

    num_tokens: int
    num_samples: int
    max_tokens: int


Surrogate = Callable[[Tensor, Tensor, Tensor, LossSettings], tuple[Tensor, Tensor]]
"""(ratio_BL, calibrated log-probs [B, L], advantages_B1, settings) -> each token's loss, 1.0 where the bound acts."""

Reduction = Callable[[Tensor, Tensor, Denominators], Tensor]
"""(token losses [B, L], 0 outside of the mask; mask_BL; counts of the step) -> scalar."""


@dataclass(frozen=True)
class PolicyLoss:
    """A member of LOSSES: what a token costs, and how tokens become one number."""

    surrogate: Surrogate
    reduce: Reduction
    of_sequence: bool = False  # every token of a sequence has the ratio of the whole


def grpo_loss(
    inputs: LossInputs, settings: LossSettings, num_tokens: int, num_samples: int
) -> tuple[Tensor, dict[str, float]]:
    """The micro-batch's share of the step's loss (a scalar with gradient), and metrics.

    `num_tokens` and `num_samples` count what the whole step trains. Metrics are means over this micro-batch's trained
    tokens: weight them by their number to put micro-batches together. The mask term enters the numerator and the
    denominator of the ratio, never the KL.
    """
    mask_BL, loss = inputs.mask_BL, LOSSES[settings.loss]
    text_BL = torch.where(mask_BL, inputs.logprobs_BL, 0.0)
    old_term_BL, moved_BL = _mask_channel(inputs, settings)
    log_ratio_BL = torch.where(mask_BL, text_BL - inputs.old_logprobs_BL, 0.0) + moved_BL
    if loss.of_sequence:
        log_ratio_BL = _sequence_mean(log_ratio_BL, mask_BL)
    ratio_BL = log_ratio_BL.exp()
    advantages_B1 = inputs.advantages_B[:, None]
    token_loss_BL, bound_BL = loss.surrogate(ratio_BL, text_BL + old_term_BL + moved_BL, advantages_B1, settings)
    means = {"policy/ratio/mean": ratio_BL, "policy/clipped/share": bound_BL}
    if inputs.sampler_weights_BL is not None:
        weights_BL = torch.where(mask_BL, inputs.sampler_weights_BL, 1.0)
        token_loss_BL = token_loss_BL * weights_BL
        means["policy/sampler_weight/mean"] = weights_BL
        means["policy/mismatch/mean"] = weights_BL.log().abs()
    if settings.least_entropy > 0:
        decides_BL = _decides(inputs, old_term_BL, settings.least_entropy)
        token_loss_BL = token_loss_BL * decides_BL
        means["policy/decides/share"] = decides_BL
    if settings.kl_coef != 0:
        if inputs.ref_logprobs_BL is None:
            raise ValueError(f"kl_coef is {settings.kl_coef}, but there are no reference log-probs")
        kl_BL = KLS[settings.kl_form](text_BL, torch.where(mask_BL, inputs.ref_logprobs_BL, 0.0))
        token_loss_BL = token_loss_BL + settings.kl_coef * kl_BL
        means["policy/kl/mean"] = kl_BL
    whole = Denominators(num_tokens, num_samples, settings.max_tokens)
    value = loss.reduce(token_loss_BL * mask_BL, mask_BL, whole)
    return value, {name: _token_mean(values_BL, mask_BL) for name, values_BL in means.items()}


def _mask_channel(inputs: LossInputs, settings: LossSettings) -> tuple[Tensor, Tensor]:
    """The old mask term, and by how much the new one moves the log-ratio: both [B, L], 0 where there is no mask.

    `calibration_clip` c cuts the move to [-c, c]: a mask that is c more (or less) likely than in the rollout moves the
    ratio no further and gets no gradient, whatever the advantage. The first update of a rollout moves nothing, so the
    bound acts from the second on. `calibration_detach` leaves the value and takes the gradient, which at the first
    update is that of the text alone.
    """
    new_BL, old_BL = inputs.mask_term_BL, inputs.old_mask_term_BL
    if new_BL is None and old_BL is None:
        nothing_BL = torch.zeros_like(inputs.old_logprobs_BL)
        return nothing_BL, nothing_BL
    if new_BL is None or old_BL is None:
        raise ValueError("mask_term_BL and old_mask_term_BL go together; found only one of them")
    moved_BL = torch.where(inputs.mask_BL, new_BL - old_BL, 0.0)
    if settings.calibration_clip > 0:
        moved_BL = moved_BL.clamp(-settings.calibration_clip, settings.calibration_clip)
    if settings.calibration_detach:
        moved_BL = moved_BL.detach()
    return torch.where(inputs.mask_BL, old_BL, 0.0), moved_BL


def _decides(inputs: LossInputs, old_term_BL: Tensor, least: float) -> Tensor:
    """1.0 where the policy was in doubt or named a mask, else 0.0: [B, L].

    A token written without doubt decided nothing, yet gets the advantage of what its neighbours decided (Wang et al.
    2025, arXiv 2506.01939; TRL's `top_entropy_quantile`). The bound is a number, not a quantile, so that a token's part
    does not depend on which others are in its micro-batch.
    """
    if inputs.entropy_BL is None:
        raise ValueError(f"least_entropy is {least}, but there are no entropies")
    return ((inputs.entropy_BL >= least) | (old_term_BL != 0)).float()


def _sequence_mean(values_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Every token gets the mean over its sequence's trained ones."""
    means_B1 = (values_BL * mask_BL).sum(1, keepdim=True) / mask_BL.sum(1, keepdim=True).clamp(min=1)
    return means_B1.expand_as(values_BL)


def _clipped(
    ratio_BL: Tensor, logprobs_BL: Tensor, advantages_B1: Tensor, settings: LossSettings
) -> tuple[Tensor, Tensor]:
    """PPO: the worse of the ratio and the clipped ratio, so that beyond the clip a token is pushed no further."""
    clipped_BL = ratio_BL.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    token_loss_BL = -torch.minimum(ratio_BL * advantages_B1, clipped_BL * advantages_B1)
    low_BL = (ratio_BL < 1 - settings.clip_low) & (advantages_B1 < 0)
    high_BL = (ratio_BL > 1 + settings.clip_high) & (advantages_B1 > 0)
    return token_loss_BL, (low_BL | high_BL).float()


def _capped(
    ratio_BL: Tensor, logprobs_BL: Tensor, advantages_B1: Tensor, settings: LossSettings
) -> tuple[Tensor, Tensor]:
    """CISPO (MiniMax-M1): the ratio, at most `clip_high`, only weighs the log-prob, so every token keeps a gradient.

    The cap acts on both signs of the advantage; counted, as TRL counts it, is where it holds back a good token.
    """
    weights_BL = ratio_BL.detach().clamp(max=settings.clip_high)
    high_BL = (ratio_BL > settings.clip_high) & (advantages_B1 > 0)
    return -weights_BL * advantages_B1 * logprobs_BL, high_BL.float()


def _k1(logprobs_BL: Tensor, ref_logprobs_BL: Tensor) -> Tensor:
    """The plain log-ratio: unbiased as a figure, of either sign. As a loss its gradient has mean 0 on-policy."""
    return logprobs_BL - ref_logprobs_BL


def _k2(logprobs_BL: Tensor, ref_logprobs_BL: Tensor) -> Tensor:
    """Half the squared log-ratio: biased as a figure; on-policy its gradient is that of KL(policy || reference)."""
    return (logprobs_BL - ref_logprobs_BL).square() / 2


def _k3(logprobs_BL: Tensor, ref_logprobs_BL: Tensor) -> Tensor:
    """Unbiased, never negative, low variance; on-policy its gradient is that of KL(reference || policy)."""
    difference_BL = ref_logprobs_BL - logprobs_BL
    return difference_BL.exp() - difference_BL - 1


# Schulman's estimates of KL(policy || reference) from the sampled tokens, http://joschu.net/blog/kl-approx.html
KLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": _k1, "k2": _k2, "k3": _k3}


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
LOSSES: dict[str, PolicyLoss] = {
    "grpo": PolicyLoss(_clipped, _sample_means),
    "bnpo": PolicyLoss(_clipped, _token_means),
    "dr_grpo": PolicyLoss(_clipped, _constant),
    "dapo": PolicyLoss(_clipped, _token_means),
    "gspo": PolicyLoss(_clipped, _sample_means, of_sequence=True),
    "cispo": PolicyLoss(_capped, _token_means),
}
