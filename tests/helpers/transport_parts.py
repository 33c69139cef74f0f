"""Actors that exchange weights: one that offers them, one that fetches them."""

from __future__ import annotations

import os
from typing import Any

import torch

from policy.engines.weight_update import LowRank
from rl.rollout.weight_transport import fetch, offer


class Reader:
    """The part of a rollout worker that fetches weights. References come in lists, so that Ray does not fetch them."""

    def read(self, references: list[Any], seconds: float = 60.0) -> list[torch.Tensor]:
        """Return dense weights as they are, and low-rank ones added to zeros."""
        arrived = fetch(references[0], seconds).values()
        return [each if isinstance(each, torch.Tensor) else each.added_to(torch.zeros(each.shape)) for each in arrived]


class Learner:
    """A learner in a process of its own, because NIXL keeps a core of its process busy until the end."""

    def offer(self, transport: str, dtype: str) -> list[Any]:
        """Offer `weights()` and return the references in a list; the weights are changed in place at once."""
        dense, low = weights()
        references = [offer({"dense": dense, "low": low}, transport, dtype)]
        dense += 1
        low.up_OR.mul_(2)
        return references

    def pid(self) -> int:
        """Return the process id."""
        return os.getpid()


def weights() -> tuple[torch.Tensor, LowRank]:
    """Build dense weights and low-rank factors, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    up_OR, down_RI = torch.randn(6, 2, generator=generator), torch.randn(2, 4, generator=generator)
    return torch.randn(300, 200, generator=generator), LowRank(up_OR, down_RI, 1.5)
