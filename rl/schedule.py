"""Which tasks a step trains on: a pure function of seed and step, so a resumed run needs no cursor but the step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def items_for_step(items: Sequence[T], per_step: int, seed: int, step: int) -> list[T]:
    """The `per_step` items of `step`: epochs of the shuffled data laid end to end, each epoch shuffled on its own.

    Raises ValueError when there are fewer items than one step needs.
    """
    if len(items) < per_step:
        raise ValueError(f"{len(items)} tasks, but grpo.tasks_per_step is {per_step}")
    picked: list[T] = []
    for position in range(step * per_step, (step + 1) * per_step):
        epoch, offset = divmod(position, len(items))
        picked.append(items[int(np.random.default_rng([seed, epoch]).permutation(len(items))[offset])])
    return picked
