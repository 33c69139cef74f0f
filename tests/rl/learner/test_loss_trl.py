"""Advantages, importance weights and loss equal TRL's on the same tensors, values and gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from configs.schema import GrpoConfig
from rl.learner.advantage import group_advantages
from rl.learner.importance_sampling import LEVELS, importance_weights
from rl.learner.policy_loss import LOSSES, Denominators, LossInputs, grpo_loss
from tests.helpers.closeness import FEW_STEPS, assert_close_to_scale
from tests.helpers.loss_parts import loss_config
from tests.helpers.trl_oracle import OracleTrainer, Sampled, build_oracle

B, G, L = 8, 4, 12
MAX_TOKENS = 16
CLIP_LOW, CLIP_HIGH = 0.2, 0.3
# TRL's settings for losses that are not among its loss types, and bounds of the losses that need other ones to clip
TRL_LOSS = {"gspo": ("grpo", "sequence")}
BOUNDS = {"gspo": (0.08, 0.2), "cispo": (CLIP_LOW, 1.1)}


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> OracleTrainer:
    folder: Path = tmp_path_factory.mktemp("trl")
    return build_oracle(folder, B, G, MAX_TOKENS)


def _sampled(seed: int) -> Sampled:
    """Build rows of several lengths with gaps (observations between turns) and ratios on both sides of both clips."""
    generator = torch.Generator().manual_seed(seed)
    old_BL = -3 * torch.rand(B, L, generator=generator)
    noise_3BL = 0.4 * torch.randn(3, B, L, generator=generator)
    lengths = [L, 3, 7, 1, L, 9, 5, 2]
    inside_BL = torch.arange(L) < torch.tensor(lengths)[:, None]
    gaps_BL = torch.rand(B, L, generator=generator) < 0.3
    mask_BL = inside_BL & ~gaps_BL
    mask_BL[:, 0] = True
    rewards_B = 3 * torch.rand(B, generator=generator) - 1
    return Sampled(
        (old_BL + noise_3BL[0]).requires_grad_(),
        old_BL,
        old_BL + noise_3BL[1],
        old_BL + noise_3BL[2],
        mask_BL,
        lengths,
        rewards_B,
        torch.rand(B, L, generator=generator),
    )


def _set(oracle: OracleTrainer, loss: str, kl_coef: float, level: str, cap: float) -> None:
    oracle.loss_type, oracle.importance_sampling_level = TRL_LOSS.get(loss, (loss, "token"))
    oracle.beta = kl_coef
    oracle.epsilon_low, oracle.epsilon_high = BOUNDS.get(loss, (CLIP_LOW, CLIP_HIGH))
    oracle.use_vllm = cap > 0
    oracle.vllm_importance_sampling_mode = f"{level}_truncate"
    oracle.vllm_importance_sampling_clip_max, oracle.vllm_importance_sampling_clip_min = cap, None


def _config(loss: str, **changes: float) -> GrpoConfig:
    clip_low, clip_high = BOUNDS.get(loss, (CLIP_LOW, CLIP_HIGH))
    return loss_config(loss, clip_low=clip_low, clip_high=clip_high, **changes)


def _trl_clipped_share(metrics: dict[str, float], loss: str) -> float:
    """Return TRL's share of clipped tokens, for gspo of clipped sequences."""
    return metrics["cispo_clip_ratio" if loss == "cispo" else "clip_ratio/region_mean"]


@pytest.mark.parametrize(("level", "cap"), [("token", 0.0), *((level, cap) for level in LEVELS for cap in (1.2, 2.0))])
@pytest.mark.parametrize("kl_coef", [0.0, 0.04])
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradient_equal_trl(oracle: OracleTrainer, loss: str, kl_coef: float, level: str, cap: float):
    sampled = _sampled(seed=int(100 * kl_coef + 10 * cap))
    _set(oracle, loss, kl_coef, level, cap)
    expected, made, trl_metrics = oracle.loss(sampled)
    (expected_gradient_BL,) = torch.autograd.grad(expected, sampled.logprobs_BL)

    groups = sampled.rewards_B.view(-1, G).tolist()
    advantages_B = torch.cat([torch.from_numpy(group_advantages(group, scale_by_std=True)) for group in groups]).float()
    assert_close_to_scale(advantages_B, made["advantages"], FEW_STEPS)
    weights_BL = None
    if cap > 0:
        weights_BL = importance_weights(sampled.old_BL, sampled.sampling_BL, sampled.mask_BL, cap, level)
        trl_weights_BL = made["importance_sampling_ratio"].expand_as(weights_BL)
        assert_close_to_scale(weights_BL[sampled.mask_BL], trl_weights_BL[sampled.mask_BL], FEW_STEPS)
        assert weights_BL.max() == pytest.approx(cap)  # the cap takes effect
        assert weights_BL.min() < 0.9

    inputs = LossInputs(
        sampled.logprobs_BL,
        sampled.old_BL,
        sampled.mask_BL,
        advantages_B,
        ref_logprobs_BL=sampled.ref_BL,
        sampler_weights_BL=weights_BL,
    )
    config = _config(loss, kl_coef=kl_coef)
    value, metrics = grpo_loss(inputs, config, Denominators(int(sampled.mask_BL.sum()), B, MAX_TOKENS))
    (gradient_BL,) = torch.autograd.grad(value, sampled.logprobs_BL)
    assert value.item() == pytest.approx(expected.item(), abs=FEW_STEPS)
    assert_close_to_scale(gradient_BL, expected_gradient_BL, FEW_STEPS)
    assert expected_gradient_BL.abs().max() > 1e-3

    if loss == "gspo":  # TRL counts sequences, grpo_loss counts tokens
        clipped = sum(_clipped_share(inputs, config, row) for row in range(B))
        assert clipped / B == pytest.approx(_trl_clipped_share(trl_metrics, loss), abs=FEW_STEPS)
    else:
        assert metrics["policy/clipped/share"] == pytest.approx(_trl_clipped_share(trl_metrics, loss), abs=FEW_STEPS)
    assert 0.02 < metrics["policy/clipped/share"] < 0.6
    if kl_coef:
        assert metrics["policy/kl/mean"] == pytest.approx(trl_metrics["kl"], abs=FEW_STEPS)
    if cap > 0 and level == "token":  # at the level of sequences TRL's mean is over sequences
        mean_ratio = trl_metrics["sampling/importance_sampling_ratio/mean"]
        assert metrics["policy/sampler_weight/mean"] == pytest.approx(mean_ratio, abs=FEW_STEPS)


@pytest.mark.parametrize("quantile", [0.2, 0.5])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_on_uncertain_tokens_equals_trl(oracle: OracleTrainer, loss: str, quantile: float):
    """TRL's bound is a quantile of the batch's entropies. `least_entropy` at that value keeps the same tokens."""
    sampled = _sampled(seed=11)
    _set(oracle, loss, kl_coef=0.04, level="token", cap=0)
    oracle.top_entropy_quantile = quantile
    expected, made, _ = oracle.loss(sampled)
    oracle.top_entropy_quantile = 1.0
    (expected_gradient_BL,) = torch.autograd.grad(expected, sampled.logprobs_BL)
    least = torch.quantile(sampled.entropy_BL[sampled.mask_BL], 1 - quantile).item()
    inputs = LossInputs(
        sampled.logprobs_BL,
        sampled.old_BL,
        sampled.mask_BL,
        made["advantages"],
        ref_logprobs_BL=sampled.ref_BL,
        entropy_BL=sampled.entropy_BL,
    )
    config = _config(loss, kl_coef=0.04, least_entropy=least)
    value, metrics = grpo_loss(inputs, config, Denominators(int(sampled.mask_BL.sum()), B, MAX_TOKENS))
    (gradient_BL,) = torch.autograd.grad(value, sampled.logprobs_BL)
    assert value.item() == pytest.approx(expected.item(), abs=FEW_STEPS)
    assert_close_to_scale(gradient_BL, expected_gradient_BL, FEW_STEPS)
    assert metrics["policy/decides/share"] == pytest.approx(quantile, abs=0.03)


def _clipped_share(inputs: LossInputs, config: GrpoConfig, row: int) -> float:
    rows: dict[str, torch.Tensor] = {
        name: value[row : row + 1] for name, value in vars(inputs).items() if value is not None
    }
    _, metrics = grpo_loss(LossInputs(**rows), config, Denominators(1, 1, MAX_TOKENS))
    return metrics["policy/clipped/share"]


def test_unscaled_advantages_equal_trl(oracle: OracleTrainer):
    sampled = _sampled(seed=7)
    oracle.scale_rewards = "none"
    _, made, _ = oracle.loss(sampled)
    oracle.scale_rewards = "group"
    ours = [group_advantages(group, scale_by_std=False) for group in sampled.rewards_B.view(-1, G).tolist()]
    assert_close_to_scale(np.concatenate(ours), made["advantages"], FEW_STEPS)
