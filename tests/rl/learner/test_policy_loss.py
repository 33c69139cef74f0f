"""Forms of the KL, ratios of sequences, the cap on ratios, and the bounds on the mask term: small cases by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.schema import GrpoConfig
from rl.learner.policy_loss import KLS, Denominators, LossInputs, grpo_loss
from tests.helpers.closeness import FEW_STEPS
from tests.helpers.loss_parts import loss_config


@pytest.mark.parametrize(
    ("form", "values", "slopes"),
    [  # log-prob minus that of the reference: 0.5, -2, 0
        ("k1", [0.5, -2.0, 0.0], [1.0, 1.0, 1.0]),
        ("k2", [0.125, 2.0, 0.0], [0.5, -2.0, 0.0]),
        ("k3", [np.exp(-0.5) - 0.5, np.exp(2.0) - 3, 0.0], [1 - np.exp(-0.5), 1 - np.exp(2.0), 0.0]),
    ],
)
def test_kl_forms_by_hand(form: str, values: list[float], slopes: list[float]):
    logprobs_BL = torch.tensor([[-1.0, -2.5, -0.7]], requires_grad=True)
    ref_BL = torch.tensor([[-1.5, -0.5, -0.7]])
    kl_BL = KLS[form](logprobs_BL, ref_BL)
    (gradient_BL,) = torch.autograd.grad(kl_BL.sum(), logprobs_BL)
    assert kl_BL[0].tolist() == pytest.approx(values, abs=FEW_STEPS)
    assert gradient_BL[0].tolist() == pytest.approx(slopes, abs=FEW_STEPS)


@pytest.mark.parametrize("form", KLS)
def test_the_loss_contains_the_configured_form(form: str):
    logprobs_BL, ref_BL = torch.tensor([[-1.0, -2.5]]), torch.tensor([[-1.5, -0.5]])
    inputs = LossInputs(logprobs_BL, logprobs_BL, logprobs_BL < 0, torch.zeros(1), ref_BL)
    loss, metrics = grpo_loss(inputs, loss_config(kl_coef=0.1, kl_form=form), Denominators(2, 1))
    expected = KLS[form](logprobs_BL, ref_BL).mean().item()
    assert loss.item() == pytest.approx(0.1 * expected) and metrics["policy/kl/mean"] == pytest.approx(expected)


def _case(advantage: float, change: float) -> LossInputs:
    """Build inputs with the text of the rollout; the mask term of the second of two tokens has changed by `change`."""
    text_BL = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    new_BL = torch.tensor([[0.0, change - 0.4]], requires_grad=True)
    mask_BL = torch.ones(1, 2, dtype=torch.bool)
    old_BL = torch.tensor([[0.0, -0.4]])
    advantages_B = torch.tensor([advantage])
    return LossInputs(text_BL, text_BL.detach(), mask_BL, advantages_B, mask_term_BL=new_BL, old_mask_term_BL=old_BL)


def _gradients(inputs: LossInputs, config: GrpoConfig) -> tuple[float, float, float]:
    """Return the loss, and its slopes by the text and by the mask term of the second token."""
    term_BL = inputs.mask_term_BL
    assert term_BL is not None
    loss, _ = grpo_loss(inputs, config, Denominators(2, 1))
    text, term = torch.autograd.grad(loss, [inputs.logprobs_BL, term_BL], allow_unused=True)
    return loss.item(), _second(text), _second(term)


def _second(gradient_BL: Tensor | None) -> float:
    return 0.0 if gradient_BL is None else gradient_BL[0, 1].item()


WIDE = loss_config("dapo", clip_low=0.9, clip_high=9.0)  # the ratio's own clip has no effect


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize(("change", "counted"), [(0.05, 0.05), (-0.05, -0.05), (0.5, 0.1), (-0.5, -0.1)])
def test_a_clipped_mask_term_changes_the_ratio_up_to_the_bound(advantage: float, change: float, counted: float):
    ratio = np.exp(counted)
    loss, by_text, by_term = _gradients(_case(advantage, change), replace(WIDE, calibration_clip=0.1))
    assert loss == pytest.approx(-advantage * (1 + ratio) / 2)
    assert by_text == pytest.approx(-advantage * ratio / 2), "the text is still trained"
    assert by_term == pytest.approx(by_text if change == counted else 0.0)
    free, _, by_free_term = _gradients(_case(advantage, change), WIDE)
    assert free == pytest.approx(-advantage * (1 + np.exp(change)) / 2)
    assert by_free_term == pytest.approx(-advantage * np.exp(change) / 2)


@pytest.mark.parametrize("name", ["dapo", "gspo", "cispo"])
@pytest.mark.parametrize("change", [0.0, 0.05])
def test_a_detached_mask_term_counts_in_the_ratio_and_gets_no_gradient(name: str, change: float):
    config = replace(WIDE, loss=name)
    attached = _gradients(_case(1.0, change), config)
    detached = _gradients(_case(1.0, change), replace(config, calibration_detach=True))
    assert detached[:2] == attached[:2] and detached[2] == 0.0
    assert attached[2] == attached[1] != 0.0


def test_a_sequence_has_one_ratio():
    """Log-ratios 0.3 and, with the mask term's 0.1, -0.1: both tokens get their mean 0.1, and that is clipped."""
    case = _case(1.0, 0.1)
    inputs = replace(case, old_logprobs_BL=torch.tensor([[-1.3, -1.8]]))
    wide = loss_config("gspo")
    loss, by_text, by_term = _gradients(inputs, wide)
    assert loss == pytest.approx(-np.exp(0.1)) and by_text == by_term == pytest.approx(-np.exp(0.1) / 2)
    assert _gradients(inputs, replace(wide, clip_high=0.1)) == pytest.approx((-1.1, 0.0, 0.0))


def test_a_capped_ratio_is_only_a_weight_of_the_calibrated_log_prob():
    """Ratios 1 and e^0.5: the second counts as 1.2, and unlike a clipped one it still gets a gradient."""
    loss, by_text, by_term = _gradients(_case(1.0, 0.5), loss_config("cispo", clip_high=1.2))
    assert loss == pytest.approx((1.0 + 1.2 * (2.0 - 0.1)) / 2)
    assert by_text == by_term == pytest.approx(-0.6)
    loss, by_text, by_term = _gradients(_case(1.0, 0.5), loss_config("cispo", clip_high=1.2, calibration_clip=0.1))
    ratio = np.exp(0.1)
    assert loss == pytest.approx((1.0 + ratio * (2.0 + 0.3)) / 2) and by_text == pytest.approx(-ratio / 2)
    assert by_term == 0.0
