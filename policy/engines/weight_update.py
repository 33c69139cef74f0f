"""Weights that training has changed since an engine was loaded: whole tensors, or the two factors of an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LowRank:
    """The change `scale * up @ down` of a weight in the engine's folder: that of a low-rank adapter."""

    up_OR: torch.Tensor
    down_RI: torch.Tensor
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        return (self.up_OR.shape[0], self.down_RI.shape[1])

    def cpu(self) -> LowRank:
        return LowRank(self.up_OR.cpu(), self.down_RI.cpu(), self.scale)

    def clone(self) -> LowRank:
        return LowRank(self.up_OR.clone(), self.down_RI.clone(), self.scale)

    def added_to(self, base_OI: torch.Tensor) -> torch.Tensor:
        """Return `base_OI` plus this change, float32 [O, I] on the device of the factors."""
        return base_OI.to(self.up_OR.device, torch.float32) + self.scale * (self.up_OR.float() @ self.down_RI.float())


WeightUpdate = Mapping[str, torch.Tensor | LowRank]  # by Hugging Face name; a head only where it is not tied
