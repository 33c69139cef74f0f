"""Which tasks a step trains on, and how fast: pure functions of the step, so a resumed run needs no other cursor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from configs.schema import GrpoConfig

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


def lr_scale(config: GrpoConfig, step: int) -> float:
    """The share of `grpo.lr` that `step` learns with, above 0 and at most 1."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return warmup * (1 - step / max(1, config.steps)) if config.lr_decays else warmup
