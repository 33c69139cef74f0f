"""Gradient norms at the language model's last hidden states: how much of a step's gradient comes through masks.

The policy loss reaches these states from the log-probs of the text (KL included) and, through SAM 2's decoder, from the
mask term of the calibration. The auxiliary mask loss reaches them through the decoder alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

# Squared norms, summed over the micro-batches of a step: of the text; of masks, calibration and auxiliary loss
# together; of the calibration alone.
TEXT, MASKS, CALIBRATION = "grad/text_squared", "grad/masks_squared", "grad/calibration_squared"


def backward(policy_loss: Tensor, mask_loss: Tensor, text_states_PD: Tensor, seg_states_MD: Tensor) -> dict[str, float]:
    """Back-propagate the sum of both losses.

    The calibration's norm costs one more backward pass through the mask decoder, down to its prompts only.

    Args:
        policy_loss: Scalar with gradient; its graph includes the calibration's mask term.
        mask_loss: Scalar with gradient, the weighted auxiliary mask loss.
        text_states_PD: [P, D] hidden states that the P action tokens are predicted from.
        seg_states_MD: [M, D] hidden states of the M [SEG] tokens, which prompt masks.

    Returns:
        The micro-batch's squared gradient norms by `TEXT`, `MASKS` and `CALIBRATION`.
    """
    (of_calibration_MD,) = torch.autograd.grad(policy_loss, seg_states_MD, retain_graph=True, allow_unused=True)
    text_states_PD.retain_grad()
    seg_states_MD.retain_grad()
    (policy_loss + mask_loss).backward()
    return {
        TEXT: _squared(text_states_PD.grad),
        MASKS: _squared(seg_states_MD.grad),
        CALIBRATION: _squared(of_calibration_MD),
    }


def add_up(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Sum the metrics of micro-batches, or of ranks, by name."""
    sums: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums


def with_shares(sums: Mapping[str, float]) -> dict[str, float]:
    """Return a step's metrics with two shares in place of the squared norms.

    `grad/masks/share` is masks / (text + masks): the part of both losses' gradient that comes through masks.
    `grad/calibration/share` is calibration / (text + calibration): the part of the policy loss's gradient that comes
    from its mask term.
    """
    text, masks, calibration = (sums.get(name, 0.0) ** 0.5 for name in (TEXT, MASKS, CALIBRATION))
    shares = {"grad/masks/share": _share(masks, text), "grad/calibration/share": _share(calibration, text)}
    return {name: value for name, value in sums.items() if name not in (TEXT, MASKS, CALIBRATION)} | shares


def _squared(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else gradient.square().sum().item()


def _share(part: float, rest: float) -> float:
    return part / (rest + part) if rest + part > 0 else 0.0
