"""The gradient of the first update is A * d(log p_text + w log p_mask), checked by central differences in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rl.learner.calibration import CALIBRATIONS, binarise_grid
from rl.learner.policy_loss import Denominators, LossInputs, grpo_loss
from tests.helpers.loss_parts import loss_config

B, L, V, H, W = 3, 5, 6, 20, 28
SEG_AT = (1, 4, 2)  # column of [SEG] in each row
STEP = 1e-5
ADVANTAGES_B = torch.tensor([1.5, -0.8, 0.4], dtype=torch.float64)


def _parameters(seed: int) -> tuple[Tensor, Tensor]:
    """Return token logits [B, L, V] and mask logits [B, H, W] of a toy policy."""
    generator = torch.Generator().manual_seed(seed)
    logits_BLV = torch.randn(B, L, V, generator=generator, dtype=torch.float64)
    return logits_BLV, 3 * torch.randn(B, H, W, generator=generator, dtype=torch.float64)


def _log_probs(logits_BLV: Tensor, masks_BHW: Tensor, grids_BHW: Tensor, form: str) -> tuple[Tensor, Tensor]:
    """Return log-probs of fixed tokens, and log p_mask at [SEG], both [B, L]."""
    tokens_BL = torch.arange(B * L).view(B, L) % V
    text_BL = logits_BLV.log_softmax(-1).gather(-1, tokens_BL[..., None])[..., 0]
    terms_B = CALIBRATIONS[form](masks_BHW, grids_BHW)
    return text_BL, torch.zeros_like(text_BL).index_put((torch.arange(B), torch.tensor(SEG_AT)), terms_B)


@pytest.mark.parametrize("weight", [0.3, 1.0])
@pytest.mark.parametrize("form", ["loglik", "iou"])
def test_the_calibrated_gradient_is_that_of_both_log_probs(form: str, weight: float):
    logits_BLV, masks_BHW = (values.requires_grad_() for values in _parameters(0))
    grids_BHW = binarise_grid(_parameters(1)[1], 0.0)
    mask_BL = torch.ones(B, L, dtype=torch.bool)
    mask_BL[:, 0] = False  # an observation

    text_BL, term_BL = _log_probs(logits_BLV, masks_BHW, grids_BHW, form)
    assert term_BL.dtype == torch.float64
    old_BL, old_term_BL = text_BL.detach(), weight * term_BL.detach()
    inputs = LossInputs(
        text_BL, old_BL, mask_BL, ADVANTAGES_B, mask_term_BL=weight * term_BL, old_mask_term_BL=old_term_BL
    )
    num_tokens = int(mask_BL.sum())
    loss, metrics = grpo_loss(inputs, loss_config("dapo"), Denominators(num_tokens, B))
    gradients = torch.autograd.grad(loss, [logits_BLV, masks_BHW])
    assert metrics["policy/ratio/mean"] == 1.0

    def objective(step: float, directions: tuple[Tensor, Tensor]) -> float:
        moved = [values + step * along for values, along in zip((logits_BLV, masks_BHW), directions, strict=True)]
        text_BL, term_BL = _log_probs(moved[0], moved[1], grids_BHW, form)
        return (-ADVANTAGES_B[:, None] * (text_BL + weight * term_BL) * mask_BL).sum().item() / num_tokens

    for seed in range(2, 7):
        along_text, along_masks = _parameters(seed)
        for directions in (
            (along_text, along_masks),
            (torch.zeros_like(along_text), along_masks),
            (along_text, torch.zeros_like(along_masks)),
        ):
            expected = (objective(STEP, directions) - objective(-STEP, directions)) / (2 * STEP)
            slope = sum((gradient * along).sum().item() for gradient, along in zip(gradients, directions, strict=True))
            assert slope == pytest.approx(expected, rel=1e-6, abs=1e-9) and abs(expected) > 1e-4
