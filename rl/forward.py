"""What the learner holds of trajectories between two of its acts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from env.types import Trajectory
from policy.batch import Batch, TokenSequence
from policy.model import PolicyOutput
from rl.targets import Target


@dataclass
class Sample:
    """A scored trajectory, ready to train."""

    trajectory: Trajectory
    sequence: TokenSequence
    grids: dict[int, Tensor] = field(default_factory=dict)  # turn -> rollout mask on the calibration grid, bool


@dataclass(frozen=True)
class Forward:
    """One forward over a micro-batch: what scoring reads, and what the loss goes back through."""

    samples: Sequence[Sample]
    batch: Batch
    output: PolicyOutput
    targets: list[Target]
    logits_NHW: Tensor  # masks of `targets`
    presence_N: Tensor
