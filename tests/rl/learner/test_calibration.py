"""The mask term of [SEG] against independent formulae."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rl.learner.calibration import CALIBRATIONS, GRID, binarise_grid
from tests.helpers.closeness import FEW_STEPS, assert_close_to_scale


def _logits(seed: int, height: int = 96, width: int = 160, count: int = 3) -> torch.Tensor:
    return 4 * torch.randn(count, height, width, generator=torch.Generator().manual_seed(seed))


def _resized_by_hand(image_HW: np.ndarray, size: int) -> np.ndarray:
    """Sample bilinearly at pixel centres, clamped at the border."""
    positions = []
    for length in image_HW.shape:
        at = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        low = np.floor(at).astype(int)
        positions.append((low, np.minimum(low + 1, length - 1), at - low))
    (top, bottom, down), (left, right, along) = positions
    upper = image_HW[top][:, left] * (1 - along) + image_HW[top][:, right] * along
    lower = image_HW[bottom][:, left] * (1 - along) + image_HW[bottom][:, right] * along
    return upper * (1 - down[:, None]) + lower * down[:, None]


@pytest.mark.parametrize("size", [(96, 160), (32, 32), (20, 50)])
def test_binarise_grid_resizes_logits_then_compares(size: tuple[int, int]):
    logits_NHW = _logits(0, *size)
    by_hand = np.stack([_resized_by_hand(image_HW, GRID) for image_HW in logits_NHW.double().numpy()])
    for threshold in (0.0, 0.5):
        grid_NHW = binarise_grid(logits_NHW, threshold)
        assert grid_NHW.dtype == torch.bool and grid_NHW.shape == (3, GRID, GRID)
        clear_NHW = np.abs(by_hand - threshold) > 1e-4
        assert np.array_equal(grid_NHW.numpy()[clear_NHW], (by_hand > threshold)[clear_NHW]) and clear_NHW.mean() > 0.99


def test_loglik_is_the_mean_binary_cross_entropy():
    logits_NHW, grid_NHW = _logits(1).requires_grad_(), binarise_grid(_logits(2), 0.0)
    small_NHW = F.interpolate(logits_NHW[:, None], (GRID, GRID), mode="bilinear")[:, 0]
    each = [-F.binary_cross_entropy_with_logits(a, b.float()) for a, b in zip(small_NHW, grid_NHW, strict=True)]
    expected_N = torch.stack(each)
    ours_N = CALIBRATIONS["loglik"](logits_NHW, grid_NHW)
    assert ours_N.max() < 0
    assert_close_to_scale(ours_N, expected_N, FEW_STEPS)
    gradients = [torch.autograd.grad(values_N.sum(), logits_NHW)[0] for values_N in (ours_N, expected_N)]
    assert gradients[1].any()
    assert_close_to_scale(gradients[0], gradients[1], FEW_STEPS)


def test_iou_form_by_hand():
    """Large logits on a 32 x 32 image: 8 of 16 + 16 pixels are shared, and one pixel is added to both areas."""
    logits_1HW = torch.full((1, GRID, GRID), -100.0)
    logits_1HW[0, 4:8, 4:8] = 100.0
    grid_1HW = torch.zeros(1, GRID, GRID, dtype=torch.bool)
    grid_1HW[0, 4:8, 6:10] = True
    form = CALIBRATIONS["iou"]
    assert form(logits_1HW, grid_1HW).item() == pytest.approx(np.log(9 / 25), abs=FEW_STEPS)
    assert form(logits_1HW, logits_1HW > 0).item() == pytest.approx(0.0, abs=FEW_STEPS)
    empty_1HW = torch.zeros_like(grid_1HW)
    assert form(torch.full_like(logits_1HW, -100.0), empty_1HW).item() == pytest.approx(0.0, abs=FEW_STEPS)
    assert form(logits_1HW, empty_1HW).item() == pytest.approx(np.log(1 / 17), abs=FEW_STEPS)


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_every_form_is_a_finite_log_that_rises_towards_the_rollout_mask(name: str):
    logits_NHW = torch.cat([_logits(3), torch.full((1, 96, 160), 1e4), torch.full((1, 96, 160), -1e4)]).requires_grad_()
    grid_NHW = binarise_grid(_logits(4, count=5), 0.0)
    terms_N = CALIBRATIONS[name](logits_NHW, grid_NHW)
    assert terms_N.shape == (5,) and terms_N.isfinite().all() and terms_N.max() <= 0
    if name == "none":
        assert not terms_N.any() and not terms_N.requires_grad
        return
    (gradient_NHW,) = torch.autograd.grad(terms_N.sum(), logits_NHW)
    assert gradient_NHW.isfinite().all()
    better_N = CALIBRATIONS[name](logits_NHW + 5 * gradient_NHW, grid_NHW)
    assert (better_N[:3] > terms_N[:3]).all()
