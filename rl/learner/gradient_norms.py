"""How much of a step's gradient comes through masks, told by its norms at the language model's last hidden states.

The policy loss reaches them from the log-probs of the text (KL included) and, through SAM 2's decoder, from the mask
term of the calibration; the auxiliary mask loss reaches them through the decoder alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# Squared norms, summed over the micro-batches of a step: by text; by masks, calibration and auxiliary loss together;
# by the calibration alone.
TEXT, MASKS, CALIBRATION = "grad/text_squared", "grad/masks_squared", "grad/calibration_squared"


def backward(policy_loss: Tensor, mask_loss: Tensor, text_states_PD: Tensor, seg_states_MD: Tensor) -> dict[str, float]:
    """Back-propagate the sum of both losses; the micro-batch's squared norms.

    `text_states_PD` are the states that predict tokens, `seg_states_MD` those that prompt masks. The calibration's part
    costs one more backward through the mask decoder, to its prompts only.
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


def add_to(sums: dict[str, float], metrics: Mapping[str, float]) -> None:
    """Add what another micro-batch, or rank, has to tell."""
    for name, value in metrics.items():
        sums[name] = sums.get(name, 0.0) + value


def with_shares(sums: dict[str, float]) -> dict[str, float]:
    """A step's metrics with two shares in place of the squared norms.

    `grad/masks/share`: of both losses, what comes through masks, masks / (text + masks).
    `grad/calibration/share`: of the policy loss alone, what its mask term sends, calibration / (text + calibration).
    """
    text, masks, calibration = (sums.pop(name, 0.0) ** 0.5 for name in (TEXT, MASKS, CALIBRATION))
    shares = {"grad/masks/share": _share(masks, text), "grad/calibration/share": _share(calibration, text)}
    return sums | shares


def _squared(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else gradient.square().sum().item()


def _share(part: float, rest: float) -> float:
    return part / (rest + part) if rest + part > 0 else 0.0
