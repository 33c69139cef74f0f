"""Which tasks a step trains on: a pure function of seed and step, so a resumed run needs no cursor but the step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def items_for_step(items: Sequence[T], per_step: int, seed: int, step: int) -> list[T]:
    """The `per_step` items of `step`, all different. Each epoch shuffles the data anew and leaves out the remainder.

    Raises ValueError when there are fewer items than one step needs.
    """
    if len(items) < per_step:
        raise ValueError(f"{len(items)} tasks, but grpo.tasks_per_step is {per_step}")
    epoch, position = divmod(step, len(items) // per_step)
    order = np.random.default_rng([seed, epoch]).permutation(len(items))
    return [items[int(at)] for at in order[position * per_step : (position + 1) * per_step]]
