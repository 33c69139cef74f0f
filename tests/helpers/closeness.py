"""Comparisons of numbers from two computations, with a tolerance relative to the size of the numbers.

Other kernels, batch shapes and numbers of threads add the same terms in another order. Each addition rounds by up to
half of EPS of its result, so a float32 sum of n terms is off by about EPS * sqrt(n) of the size of its terms (Higham,
Accuracy and Stability of Numerical Algorithms, section 4.2), and errors of successive layers add up. The tolerances:

* FEW_STEPS: formulas with elementwise functions and sums of some hundred terms. EPS * sqrt(400) = 2.4e-6.
* FORWARD: forwards of small models. About 20 sums of 400 terms, one after the other: EPS * sqrt(20 * 400) = 1.1e-5.
* LOGPROBS: an absolute one. Log-probs to -13 are differences of larger numbers; seen were 3.8e-6.
* BACKWARD: gradients over many tokens, and what follows from steps with them. Few elements are as large as the largest,
  and rounding of the others is small beside it: seen were 5e-7, so it is smaller than FORWARD.
* POLICY_GRADIENT: gradients of siblings, which cancel since their advantages have both signs; seen were 2.3e-6.

Each is 10 to 30 times the largest difference seen over instruction sets and numbers of threads
(tests/instruction_sets.sh), and far below the effect of a fault: `test_closeness.py` plants some.

Where large terms cancel, the result is small and its rounding is not. Such numbers have an absolute tolerance, for the
size of the terms: log-probs, presence logits and losses of both signs are compared by `pytest.approx(..., abs=...)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from env.rle import decode
from env.types import RLE

EPS = 2.0**-23  # of float32: 1.2e-7
FEW_STEPS = 5e-6
FORWARD = 3e-5
LOGPROBS = 1e-4
BACKWARD = 1e-5
POLICY_GRADIENT = 5e-5
PIXELS = 1e-3  # share of the pixels of a mask: a logit within rounding of 0 may fall on either side

Numbers = Tensor | np.ndarray | Sequence[float] | float


def assert_close_to_scale(found: Numbers, expected: Numbers, relative: float, name: str = "the result") -> None:
    """Assert that the largest difference is at most `relative` times the largest expected number.

    Args:
        found: numbers of the computation under test.
        expected: numbers of the reference, of the same shape.
        relative: allowed difference per size of the largest expected number, such as FORWARD.
        name: begins the message.

    Raises:
        AssertionError: a difference is larger or NaN, or the shapes differ. The message tells difference and scale.
    """
    difference, scale = _largest_difference(found, expected), _largest(expected)
    assert difference <= relative * scale, (
        f"{name}: the largest number is {scale:.3g} and one differs by {difference:.3g}, more than {relative:.3g} of it"
    )


def assert_close_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], relative: float) -> None:
    """Assert that all tensors are close, relative to the largest number of all of them.

    It is for gradients and weights: gradients of some weights are zero but for rounding, so they have no scale of
    their own.

    Args:
        found: tensors by name.
        expected: tensors of the reference, by the same names.
        relative: allowed difference per size of the largest number of `expected`, such as BACKWARD.

    Raises:
        AssertionError: a difference is larger or NaN, or names or shapes differ.
    """
    assert found.keys() == expected.keys(), f"names differ: {', '.join(map(repr, found.keys() ^ expected.keys()))}"
    scale = largest_of(expected)
    for name, tensor in expected.items():
        difference = _largest_difference(found[name], tensor)
        assert difference <= relative * scale, (
            f"{name} differs by {difference:.3g}, more than {relative:.3g} of the largest number of all, {scale:.3g}"
        )


def assert_same_masks(found: Iterable[RLE | None], expected: Iterable[RLE | None]) -> None:
    """Assert that masks agree in all but PIXELS of their pixels; None is the absence of a mask."""
    for ours, theirs in zip(found, expected, strict=True):
        if ours is None or theirs is None:
            assert ours is theirs, "one of two masks is missing"
        else:
            apart = float((decode(ours) != decode(theirs)).mean())
            assert apart <= PIXELS, f"masks differ in {apart:.3g} of their pixels, more than {PIXELS:.3g}"


def relative_difference(found: Numbers, expected: Numbers) -> float:
    """Return the largest difference per size of the largest expected number, to show the effect of a planted error."""
    return _largest_difference(found, expected) / _largest(expected)


def largest_of(tensors: Mapping[str, Tensor]) -> float:
    """Return the largest absolute value of all tensors."""
    return max(_largest(tensor) for tensor in tensors.values())


def _largest_difference(found: Numbers, expected: Numbers) -> float:
    ours, theirs = _as_float64(found), _as_float64(expected)
    assert ours.shape == theirs.shape, f"found shape {tuple(ours.shape)}, expected {tuple(theirs.shape)}"
    return _largest(ours - theirs)


def _largest(numbers: Numbers) -> float:
    values = _as_float64(numbers)
    assert values.numel(), "no numbers to compare"
    return float(values.abs().max())


def _as_float64(numbers: Numbers) -> Tensor:
    return torch.as_tensor(numbers).detach().double()
