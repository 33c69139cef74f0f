"""Processes between which weights travel, for Ray to start: one that offers them, one that fetches."""

from __future__ import annotations

import os
from typing import Any

import torch

from policy.engines.weight_update import LowRank
from rl.rollout.weight_transport import fetch, offer


class Reader:
    """A rollout worker, as far as weights go; its references come in lists, so that Ray does not fetch them."""

    def read(self, references: list[Any], seconds: float = 60.0) -> list[torch.Tensor]:
        """Dense weights as they are, and what low-rank ones would make of zeros."""
        arrived = fetch(references[0], seconds).values()
        return [each if isinstance(each, torch.Tensor) else each.added_to(torch.zeros(each.shape)) for each in arrived]


class Learner:
    """Another process than this one, which NIXL would keep busy for good."""

    def offer(self, transport: str, dtype: str) -> list[Any]:
        """References to `weights()`, which are changed in place at once."""
        dense, low = weights()
        references = [offer({"dense": dense, "low": low}, transport, dtype)]
        dense += 1
        low.up_OR.mul_(2)
        return references

    def pid(self) -> int:
        return os.getpid()


def weights() -> tuple[torch.Tensor, LowRank]:
    generator = torch.Generator().manual_seed(0)
    up_OR, down_RI = torch.randn(6, 2, generator=generator), torch.randn(2, 4, generator=generator)
    return torch.randn(300, 200, generator=generator), LowRank(up_OR, down_RI, 1.5)
