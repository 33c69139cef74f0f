"""What the learner holds of trajectories between two of its acts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from env.types import Trajectory
from policy.videoseg.model import PolicyOutput
from policy.vlm.batch import Batch, TokenSequence
from rl.learner.mask_targets import Target


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


class Totals(NamedTuple):
    """Denominators of the whole step, so that any split into micro-batches and ranks gives the same gradient."""

    num_tokens: int
    num_samples: int
    num_masks: int

    @classmethod
    def over(cls, parts: Sequence[Totals]) -> Totals:
        return cls(*map(sum, zip(*parts, strict=True)))


def _fill_logprobs(sample: Sample, logprobs_L: Tensor) -> None:
    turn_idx = torch.tensor(sample.sequence.turn_idx)
    for number, turn in enumerate(sample.trajectory.turns):
        at = (turn_idx == number).nonzero()[:, 0].to(logprobs_L.device)
        turn.old_logprobs = tuple(logprobs_L[at].tolist())


def _at_actions(values_P: Tensor, batch: Batch) -> Tensor:
    """Values of the action tokens as [B, L], 0 elsewhere."""
    values_BL = torch.zeros(batch.input_ids_BL.shape, device=values_P.device)
    values_BL[batch.loss_mask_BL] = values_P
    return values_BL


def _old_logprobs(samples: Sequence[Sample], batch: Batch) -> tuple[Tensor, Tensor]:
    """Learner's and sampler's log-probs of the rollout as [B, L], 0 outside actions."""
    old_BL = torch.zeros(batch.input_ids_BL.shape)
    sampling_BL = torch.zeros(batch.input_ids_BL.shape)
    for row, sample in enumerate(samples):
        mask_L = torch.tensor(sample.sequence.loss_mask)
        turns = sample.trajectory.turns
        old_BL[row, : len(mask_L)][mask_L] = torch.tensor([value for turn in turns for value in turn.old_logprobs])
        sampled = [value for turn in turns for value in turn.action.logprobs]
        sampling_BL[row, : len(mask_L)][mask_L] = torch.tensor(sampled)
    return old_BL.to(batch.input_ids_BL.device), sampling_BL.to(batch.input_ids_BL.device)
