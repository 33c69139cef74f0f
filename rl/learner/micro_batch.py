"""Data of a micro-batch: the trajectories to train on, one forward pass over them, and the counts of the whole step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from env.types import Trajectory
from policy.videoseg.model import PolicyOutput
from policy.vlm.batch import ALIKE, Batch, TokenSequence, pack
from rl.learner.mask_targets import Target


@dataclass
class Sample:
    """A trajectory as the learner reads it."""

    trajectory: Trajectory
    sequence: TokenSequence
    grids: dict[int, Tensor] = field(default_factory=dict)  # turn -> rollout mask on the calibration grid, bool


@dataclass(frozen=True)
class Forward:
    """One forward pass over a micro-batch. Scoring reads it, and the loss is back-propagated through it."""

    samples: Sequence[Sample]
    batch: Batch
    output: PolicyOutput
    targets: list[Target]
    logits_NHW: Tensor  # mask logits of `targets`
    presence_N: Tensor | None  # SAM 2's logits that the object of each target is in the frame; None: not used


class Totals(NamedTuple):
    """Counts of a whole step. As denominators they make the gradient the same for any split of the step."""

    num_tokens: int
    num_samples: int
    num_masks: int

    @classmethod
    def over(cls, parts: Sequence[Totals]) -> Totals:
        """Add up the counts of several ranks."""
        return cls(*map(sum, zip(*parts, strict=True)))


def split_samples(samples: Sequence[Sample], max_tokens: int) -> list[list[Sample]]:
    """Split samples into micro-batches of similar lengths, of at most `max_tokens` padded tokens each.

    An episode without a turn (its first observation did not fit the context) is left out. A single sample of more
    than `max_tokens` is a micro-batch of its own.
    """
    written = [sample for sample in samples if len(sample.sequence)]
    rows = pack([len(sample.sequence) for sample in written], max_tokens, least_share=ALIKE)
    return [[written[row] for row in micro_batch] for micro_batch in rows]


def num_padded_tokens(micro_batches: Sequence[Sequence[Sample]]) -> int:
    """Count the tokens of all micro-batches, padding included."""
    return sum(len(samples) * max(len(sample.sequence) for sample in samples) for samples in micro_batches)
