"""The released policy gradient, splits into micro-batches, and the places where the mask term takes effect."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rl.learner.advantage import group_advantages
from rl.learner.calibration import GRID, binarise_grid, loglik
from rl.learner.importance_sampling import importance_weights
from rl.learner.policy_loss import LOSSES, Denominators, LossInputs, grpo_loss
from tests.helpers.closeness import FEW_STEPS, assert_close_to_scale
from tests.helpers.loss_parts import loss_config

B, L, V = 8, 10, 7
SEG_AT = 4  # column of [SEG] in every row


def _policy(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return token logits and mask logits of a toy policy, and sampled tokens."""
    generator = torch.Generator().manual_seed(seed)
    logits_BLV = torch.randn(B, L, V, generator=generator, requires_grad=True)
    masks_BHW = (3 * torch.randn(B, 24, 40, generator=generator)).requires_grad_()
    return logits_BLV, masks_BHW, torch.randint(V, (B, L), generator=generator)


def _logprobs(logits_BLV: torch.Tensor, tokens_BL: torch.Tensor) -> torch.Tensor:
    return logits_BLV.log_softmax(-1).gather(-1, tokens_BL[..., None])[..., 0]


def _mask() -> torch.Tensor:
    mask_BL = torch.arange(L) < torch.tensor([10, 6, 8, 5, 9, 7, 10, 6])[:, None]
    mask_BL[:, 2] = False  # an observation
    return mask_BL


def _at_seg(terms_B: torch.Tensor) -> torch.Tensor:
    return F.pad(terms_B[:, None], (SEG_AT, L - SEG_AT - 1))


ADVANTAGES = torch.tensor([1.5, -0.5, 0.3, -1.3, 0.0, 0.7, -0.9, 0.2])


@pytest.mark.parametrize("kl_coef", [0.0, 0.04])
def test_one_update_has_the_released_gradient(kl_coef: float):
    """-exp(lp - sg(lp)) A + beta k3, lp with the mask log-prob at [SEG], k3 without it; row means, then their mean."""
    logits_BLV, masks_BHW, tokens_BL = _policy()
    mask_BL = _mask()
    ref_BL = _logprobs(_policy(seed=1)[0], tokens_BL).detach()
    rollout_BHW = binarise_grid(masks_BHW, 0.5)

    text_BL = _logprobs(logits_BLV, tokens_BL)
    small_BHW = F.interpolate(masks_BHW[:, None], (GRID, GRID), mode="bilinear")[:, 0]
    target_BHW = (small_BHW.detach() > 0.5).float()
    logp_mask_B = -F.binary_cross_entropy_with_logits(small_BHW, target_BHW, reduction="none").mean((1, 2))
    calibrated_BL = text_BL.clone()
    calibrated_BL[:, SEG_AT] += logp_mask_B
    k3_BL = (ref_BL - text_BL).exp() - (ref_BL - text_BL) - 1
    token_loss_BL = -(calibrated_BL - calibrated_BL.detach()).exp() * ADVANTAGES[:, None] + kl_coef * k3_BL
    released = ((token_loss_BL * mask_BL).sum(1) / mask_BL.sum(1)).mean()
    expected = torch.autograd.grad(released, [logits_BLV, masks_BHW])

    new_BL = _logprobs(logits_BLV, tokens_BL)
    term_BL = _at_seg(loglik(masks_BHW, rollout_BHW))
    inputs = LossInputs(new_BL, new_BL.detach(), mask_BL, ADVANTAGES, ref_BL, term_BL, term_BL.detach())
    loss, metrics = grpo_loss(inputs, loss_config("grpo", kl_coef=kl_coef), Denominators(int(mask_BL.sum()), B))
    gradients = torch.autograd.grad(loss, [logits_BLV, masks_BHW])
    assert loss.item() == pytest.approx(released.item(), abs=FEW_STEPS)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert theirs.abs().max() > 1e-5
        assert_close_to_scale(ours, theirs, FEW_STEPS)
    assert metrics["policy/ratio/mean"] == 1.0 and metrics["policy/clipped/share"] == 0.0


def _inputs(logprobs_BL: torch.Tensor, term_BL: torch.Tensor) -> LossInputs:
    """Build inputs after an update away from the rollout, with every channel in use."""
    noise_3BL = 0.3 * torch.randn(3, B, L, generator=torch.Generator().manual_seed(5))
    old_BL = (logprobs_BL + noise_3BL[0]).detach()
    mask_BL = _mask()
    weights_BL = importance_weights(old_BL, old_BL + noise_3BL[1], mask_BL, cap=1.3)
    old_term_BL = _at_seg(torch.full((B,), -0.4))
    reference_BL, entropy_BL = old_BL + noise_3BL[2], noise_3BL[2].abs()
    return LossInputs(
        logprobs_BL, old_BL, mask_BL, ADVANTAGES, reference_BL, term_BL, old_term_BL, weights_BL, entropy_BL
    )


def _rows(inputs: LossInputs, rows: slice) -> LossInputs:
    return LossInputs(**{field.name: getattr(inputs, field.name)[rows] for field in fields(inputs)})


@pytest.mark.parametrize("name", LOSSES)
def test_one_batch_of_eight_is_eight_of_one(name: str):
    logits_BLV, masks_BHW, tokens_BL = _policy()
    grids_BHW = binarise_grid(masks_BHW, 0.0)
    high = 1.2 if name == "cispo" else 0.2
    config = loss_config(name, clip_high=high, kl_coef=0.1, least_entropy=0.2)
    num_tokens = int(_mask().sum())
    whole_step = Denominators(num_tokens, B, max_tokens=L)
    results = []
    for size in (8, 1, 3):
        inputs = _inputs(_logprobs(logits_BLV, tokens_BL), _at_seg(loglik(masks_BHW, grids_BHW)))
        total, ratio = torch.zeros(()), 0.0
        for start in range(0, B, size):
            part = _rows(inputs, slice(start, start + size))
            loss, metrics = grpo_loss(part, config, whole_step)
            total, ratio = total + loss, ratio + metrics["policy/ratio/mean"] * int(part.mask_BL.sum()) / num_tokens
        results.append((total.item(), ratio, *torch.autograd.grad(total, [logits_BLV, masks_BHW])))
    for loss, ratio, *gradients in results[1:]:
        assert loss == pytest.approx(results[0][0], abs=FEW_STEPS) and ratio == pytest.approx(
            results[0][1], abs=FEW_STEPS
        )
        for split, whole in zip(gradients, results[0][2:], strict=True):
            assert whole.abs().max() > 1e-5
            assert_close_to_scale(split, whole, FEW_STEPS)


@pytest.mark.parametrize("name", LOSSES)
def test_equal_returns_give_no_gradient_at_all(name: str):
    logits_BLV, masks_BHW, tokens_BL = _policy()
    inputs = _inputs(_logprobs(logits_BLV, tokens_BL), _at_seg(loglik(masks_BHW, binarise_grid(masks_BHW, 0.0))))
    advantages_B = torch.from_numpy(group_advantages([0.1] * B, scale_by_std=True)).float()
    inputs = replace(inputs, advantages_B=advantages_B)
    loss, _ = grpo_loss(inputs, loss_config(name), Denominators(60, B, max_tokens=L))
    gradients = torch.autograd.grad(loss, [logits_BLV, masks_BHW])
    assert loss.item() == 0.0 and all(not gradient.any() for gradient in gradients)


def test_the_mask_term_changes_the_ratio_and_never_the_kl():
    logits_BLV, _, tokens_BL = _policy()
    text_BL = _logprobs(logits_BLV, tokens_BL).detach()
    term_BL = _at_seg(torch.full((B,), -0.1)).requires_grad_()
    base = LossInputs(text_BL, text_BL, _mask(), torch.ones(B), text_BL - 0.5, term_BL, _at_seg(torch.full((B,), -0.2)))
    _, changed = grpo_loss(base, loss_config(kl_coef=0.1), Denominators(1, B))
    _, same = grpo_loss(replace(base, old_mask_term_BL=term_BL.detach()), loss_config(kl_coef=0.1), Denominators(1, B))
    assert changed["policy/kl/mean"] == same["policy/kl/mean"] == pytest.approx(np.exp(-0.5) + 0.5 - 1, abs=FEW_STEPS)
    num_tokens = int(_mask().sum())
    assert same["policy/ratio/mean"] == 1.0
    assert changed["policy/ratio/mean"] == pytest.approx(1 + B * (np.exp(0.1) - 1) / num_tokens, abs=FEW_STEPS)
    # Beyond the clip, a [SEG] of positive advantage gets no gradient.
    far = replace(base, old_mask_term_BL=_at_seg(torch.full((B,), -0.6)))
    loss, clipped = grpo_loss(far, loss_config(), Denominators(1, B))
    (gradient_BL,) = torch.autograd.grad(loss, term_BL)
    assert not gradient_BL[:, SEG_AT].any() and clipped["policy/clipped/share"] == pytest.approx(B / num_tokens)


def test_certain_tokens_are_trained_by_the_kl_alone():
    text_BL = torch.tensor([[-1.0, -0.01, -2.0, -0.02]], requires_grad=True)
    entropy_BL = torch.tensor([[0.9, 0.05, 0.1, 0.01]])
    term_BL = torch.tensor([[0.0, 0.0, 0.0, -0.3]])  # [SEG] is written with certainty, but its mask is a decision
    inputs = LossInputs(text_BL, text_BL.detach(), text_BL < 0, torch.ones(1), None, term_BL, term_BL, None, entropy_BL)
    loss, metrics = grpo_loss(inputs, loss_config(least_entropy=0.1), Denominators(4, 1))
    (gradient_BL,) = torch.autograd.grad(loss, text_BL)
    assert gradient_BL.tolist() == [pytest.approx([-0.25, 0.0, -0.25, -0.25])]
    assert metrics["policy/decides/share"] == 0.75
    inputs = replace(inputs, ref_logprobs_BL=text_BL.detach() - 0.5)
    loss, _ = grpo_loss(inputs, loss_config(kl_coef=0.1, least_entropy=0.1), Denominators(4, 1))
    (gradient_BL,) = torch.autograd.grad(loss, text_BL)
    assert gradient_BL[0, 1].item() == pytest.approx(0.1 * (1 - np.exp(-0.5)) / 4)


def test_values_outside_the_mask_are_ignored():
    logits_BLV, masks_BHW, tokens_BL = _policy()
    clean = _inputs(_logprobs(logits_BLV, tokens_BL), _at_seg(loglik(masks_BHW, binarise_grid(masks_BHW, 0.0))))
    outside_BL = ~clean.mask_BL
    dirty_BL = clean.logprobs_BL.detach().clone()
    dirty_BL[outside_BL] = float("nan")
    dirty_BL.requires_grad_()
    channels = [name for name in vars(clean) if name.endswith("_BL") and name not in ("logprobs_BL", "mask_BL")]
    spoiled = {name: getattr(clean, name).detach().masked_fill(outside_BL, float("nan")) for name in channels}
    config = loss_config(kl_coef=0.1, least_entropy=0.2)
    expected, expected_metrics = grpo_loss(clean, config, Denominators(60, B))
    loss, metrics = grpo_loss(replace(clean, logprobs_BL=dirty_BL, **spoiled), config, Denominators(60, B))
    (gradient_BL,) = torch.autograd.grad(loss, dirty_BL)
    assert loss.item() == expected.item() and metrics == expected_metrics
    assert gradient_BL.isfinite().all() and not gradient_BL[outside_BL].any()


def test_rows_without_trained_tokens_are_no_nan():
    text_BL = torch.zeros(2, 3, requires_grad=True)
    inputs = LossInputs(text_BL, text_BL.detach(), torch.zeros(2, 3, dtype=torch.bool), torch.ones(2))
    for name in LOSSES:
        loss, metrics = grpo_loss(inputs, loss_config(name), Denominators(0, 2, max_tokens=3))
        assert loss.item() == 0.0 and metrics["policy/ratio/mean"] == 0.0


def test_importance_weights_by_hand():
    mask_BL = torch.tensor([[True, True, True, False]])
    old_BL, sampling_BL = torch.tensor([[-1.0, -1.0, -1.0, -1.0]]), torch.tensor([[-1.0, -3.0, -0.5, -9.0]])
    weights_BL = importance_weights(old_BL.requires_grad_(), sampling_BL, mask_BL, cap=2.0)
    assert weights_BL.tolist() == [pytest.approx([1.0, 2.0, np.exp(-0.5), 1.0])] and not weights_BL.requires_grad


def test_importance_weights_of_sequences_by_hand():
    mask_BL = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    difference_BL = torch.tensor([[0.3, -0.5, 9.0], [0.4, 0.4, 0.4], [7.0, 7.0, 7.0]])
    weights_BL = importance_weights(difference_BL, torch.zeros(3, 3), mask_BL, cap=2.0, level="sequence")
    for row, expected in zip(weights_BL.tolist(), [np.exp(-0.2), 2.0, 1.0], strict=True):
        assert row == pytest.approx([expected] * 3)


def test_missing_channels_are_errors():
    text_BL = torch.zeros(1, 2)
    inputs = LossInputs(text_BL, text_BL, text_BL == 0, torch.ones(1))
    with pytest.raises(ValueError, match=r"grpo.kl_coef is 0.1, so LossInputs.ref_logprobs_BL must be given"):
        grpo_loss(inputs, loss_config(kl_coef=0.1), Denominators(2, 1))
    with pytest.raises(ValueError, match=r"grpo.least_entropy is 0.2, so LossInputs.entropy_BL must be given"):
        grpo_loss(inputs, loss_config(least_entropy=0.2), Denominators(2, 1))
    with pytest.raises(ValueError, match="both of mask_term_BL and old_mask_term_BL or neither"):
        grpo_loss(replace(inputs, mask_term_BL=text_BL), loss_config(), Denominators(2, 1))
    with pytest.raises(ValueError, match=r"dr_grpo needs Denominators.max_tokens of at least 1, got 0"):
        grpo_loss(inputs, loss_config("dr_grpo"), Denominators(2, 1))


@pytest.mark.parametrize(
    ("returns", "scaled", "expected"),
    [
        ([1.0, 3.0], False, [-1.0, 1.0]),
        ([1.0, 3.0], True, [-1 / (2**0.5 + 1e-4), 1 / (2**0.5 + 1e-4)]),
        ([0.0, 0.0, 3.0], True, [-1 / (3**0.5 + 1e-4), -1 / (3**0.5 + 1e-4), 2 / (3**0.5 + 1e-4)]),
        ([0.1, 0.1, 0.1], True, [0.0, 0.0, 0.0]),  # exact, though their float mean is not 0.1
        ([0.1, 0.1, 0.1], False, [0.0, 0.0, 0.0]),
        ([-2.0, -2.0], True, [0.0, 0.0]),
    ],
)
def test_advantages_by_hand(returns: list[float], scaled: bool, expected: list[float]):
    advantages_G = group_advantages(returns, scaled)
    assert advantages_G.tolist() == pytest.approx(expected, abs=1e-15)
    if len(set(returns)) == 1:
        assert not advantages_G.any()


@pytest.mark.parametrize("returns", [[], [1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_groups_without_two_finite_returns_are_errors(returns: list[float]):
    with pytest.raises(ValueError, match=r"at least 2 returns|expected finite returns"):
        group_advantages(returns, scale_by_std=True)
