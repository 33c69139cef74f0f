"""Comparisons of numbers from two computations, with a tolerance relative to the size of the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

Numbers = Tensor | np.ndarray | Sequence[float] | float
FEW_STEPS, FORWARD, BACKWARD = 1e-5, 1e-4, 1e-4


def assert_close_to_scale(found: Numbers, expected: Numbers, relative: float, name: object = "") -> None:
    """Assert that no number of `found` is further than `relative` times the largest of `expected` from its own."""
    difference, scale = largest_difference(found, expected), largest(expected)
    assert difference <= relative * scale, (
        f"{name} differs by {difference:.3g}, more than {relative:.3g} of {scale:.3g}"
    )


def assert_close_gradients(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], relative: float) -> None:
    assert found.keys() == expected.keys()
    scale = max(largest(tensor) for tensor in expected.values())
    for name, tensor in expected.items():
        difference = largest_difference(found[name], tensor)
        assert difference <= relative * scale, f"{name} {difference} {scale}"


def relative_difference(found: Numbers, expected: Numbers) -> float:
    return largest_difference(found, expected) / largest(expected)


def largest_difference(found: Numbers, expected: Numbers) -> float:
    ours, theirs = _as_float64(found), _as_float64(expected)
    assert ours.shape == theirs.shape, f"shapes {tuple(ours.shape)} and {tuple(theirs.shape)}"
    return largest(ours - theirs)


def largest(numbers: Numbers) -> float:
    return float(_as_float64(numbers).abs().max())


def _as_float64(numbers: Numbers) -> Tensor:
    return torch.as_tensor(numbers).detach().double()


def largest_of(tensors: Mapping[str, Tensor]) -> float:
    return max(largest(tensor) for tensor in tensors.values())
