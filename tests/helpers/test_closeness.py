"""The tolerances of `closeness`: rounding passes, and small planted errors fail."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from env.rle import encode
from tests.helpers.closeness import (
    BACKWARD,
    FEW_STEPS,
    FORWARD,
    assert_close_tensors,
    assert_close_to_scale,
    assert_same_masks,
    relative_difference,
)

ROWS, LENGTH, WIDTH, LAYERS = 8, 50, 64, 12
Gradients = dict[str, Tensor]


def terms() -> Tensor:
    """Return 1000 terms, float32, whose sum is of their own size."""
    return torch.randn(1000, generator=torch.Generator().manual_seed(0))


def test_the_order_of_a_sum_passes_and_a_missing_term_fails():
    expected = terms().double().sum().item()
    assert_close_to_scale(torch.cumsum(terms(), 0)[-1], expected, FEW_STEPS)
    assert_close_to_scale(terms().view(40, 25).sum(0).sum(), expected, FEW_STEPS)
    with pytest.raises(AssertionError, match=r"the sum: .* differs by .*, more than"):
        assert_close_to_scale(terms()[1:].sum(), expected, BACKWARD, "the sum")


@pytest.mark.parametrize("tolerance", [FEW_STEPS, FORWARD, BACKWARD])
@pytest.mark.parametrize(
    "plant",
    [
        lambda values: values * 1.001,
        lambda values: values.bfloat16().float(),
        lambda values: values.half().float(),
        lambda values: values.roll(1),
        lambda values: torch.where(torch.arange(len(values)) == 7, 0.0, values),
        lambda values: torch.where(torch.arange(len(values)) == 7, torch.nan, values),
    ],
    ids=["scaled by 1.001", "bfloat16", "float16", "shifted by one", "one is 0", "one is NaN"],
)
def test_a_planted_error_in_an_array_fails(plant: Callable[[Tensor], Tensor], tolerance: float):
    with pytest.raises(AssertionError):
        assert_close_to_scale(plant(terms()), terms(), tolerance)


def test_what_is_compared_may_be_a_list_an_array_or_a_number_but_of_one_shape():
    assert_close_to_scale([1.0, 2.0], np.array([1.0, 2.0 + 1e-7]), FEW_STEPS)
    assert_close_to_scale(-2.0, torch.tensor(-2.0), 0.0)
    with pytest.raises(AssertionError, match=r"shape \(2,\), expected \(3,\)"):
        assert_close_to_scale([1.0, 2.0], [1.0, 2.0, 3.0], FORWARD)
    with pytest.raises(AssertionError, match="no numbers"):
        assert_close_to_scale([], [], FORWARD)
    assert relative_difference([1.0, -4.0], [1.0, -5.0]) == 0.2


def test_a_flipped_pixel_passes_and_a_shifted_mask_fails():
    mask_HW = np.zeros((64, 64), bool)
    mask_HW[10:22, 30:42] = True
    flipped_HW = mask_HW.copy()
    flipped_HW[9, 30] = True
    assert_same_masks([encode(flipped_HW), None], [encode(mask_HW), None])
    with pytest.raises(AssertionError, match=r"masks differ in 0\.00586 of their pixels"):
        assert_same_masks([encode(np.roll(mask_HW, 1, 0))], [encode(mask_HW)])
    with pytest.raises(AssertionError, match="one of two masks is missing"):
        assert_same_masks([None], [encode(mask_HW)])


def inputs() -> Tensor:
    """Return rows [ROWS, LENGTH, WIDTH] for `forward`."""
    return torch.randn(ROWS, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))


def weights() -> list[Tensor]:
    """Return one matrix per layer, from which gradients can be taken."""
    generator = torch.Generator().manual_seed(2)
    made = [torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5 for _ in range(LAYERS)]
    return [matrix.requires_grad_() for matrix in made]


def forward(rows_BLD: Tensor, matrices: list[Tensor]) -> Tensor:
    """Return states [B, L, D] of a small network with attention in every layer."""
    for matrix in matrices:
        normed_BLD = torch.nn.functional.layer_norm(rows_BLD, (WIDTH,))
        attended_BLD = torch.nn.functional.scaled_dot_product_attention(normed_BLD, normed_BLD, normed_BLD)
        rows_BLD = rows_BLD + torch.tanh(attended_BLD @ matrix)
    return rows_BLD


def test_rows_alone_pass_and_one_changed_input_fails():
    whole = forward(inputs(), weights())
    alone = torch.cat([forward(row_1LD, weights()) for row_1LD in inputs().split(1)])
    assert_close_to_scale(alone, whole, FORWARD)
    changed = inputs()
    changed[3, 7, 5] += 0.01
    assert relative_difference(forward(changed, weights()), whole) > 10 * FORWARD
    one_layer = [matrix.bfloat16().float() if at == 5 else matrix for at, matrix in enumerate(weights())]
    assert relative_difference(forward(inputs(), one_layer), whole) > 10 * FORWARD


def gradient(batches: list[Tensor], skipped: int = 0) -> Gradients:
    """Return the gradient of a mean over all positions but the first `skipped` of row 0, summed over `batches`."""
    matrices = weights()
    for number, rows_BLD in enumerate(batches):
        losses_BL = forward(rows_BLD, matrices).square().mean(-1)
        (losses_BL.sum() - (losses_BL[0, :skipped].sum() if number == 0 else 0)).div(ROWS * LENGTH).backward()
    return {str(at): matrix.grad for at, matrix in enumerate(matrices) if matrix.grad is not None}


def test_a_gradient_in_parts_passes_and_one_missing_token_of_400_fails():
    whole, parts = gradient([inputs()]), gradient(list(inputs().split(1)))
    assert len(whole) == LAYERS
    assert_close_tensors(parts, whole, BACKWARD)
    with pytest.raises(AssertionError, match=r"\d+ differs by .* of the largest number of all"):
        assert_close_tensors(gradient(list(inputs().split(1)), skipped=1), whole, BACKWARD)
    with pytest.raises(AssertionError, match="names differ: '0'"):
        assert_close_tensors({name: parts[name] for name in parts if name != "0"}, whole, BACKWARD)
