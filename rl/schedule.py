"""Which tasks a step trains on, and how fast: pure functions of the step, so a resumed run needs no other cursor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from configs.schema import GrpoConfig
from cot_data.mixture import Mixture
from env.types import Task

T = TypeVar("T")


def items_for_step(items: Sequence[T], kinds: Sequence[str], per_step: int, seed: int, step: int) -> list[T]:
    """The `per_step` items of `step`, all different. Each epoch shuffles the data anew and leaves out the remainder.

    Every step gets its share of each kind, as evenly as whole numbers allow: which kinds a few tasks happen to be of
    would else be most of what a small step learns from. ValueError when there are fewer items than one step needs.
    """
    if len(items) < per_step:
        raise ValueError(f"{len(items)} tasks, but grpo.tasks_per_step is {per_step}")
    epoch, position = divmod(step, len(items) // per_step)
    order = _spread(kinds, np.random.default_rng([seed, epoch]))
    return [items[at] for at in order[position * per_step : (position + 1) * per_step]]


def tasks_for_step(tasks: Mixture, per_step: int, seed: int, step: int) -> list[Task]:
    """The tasks of `step`: of a single data set its share of each kind, of several by their weights."""
    if len(tasks.parts) != 1:
        return tasks.tasks_for_step(per_step, seed, step)
    kinds = [outline.explore or outline.family for outline in tasks.outlines]
    return items_for_step(*tasks.parts, kinds, per_step, seed, step)


def _spread(kinds: Sequence[str], rng: np.random.Generator) -> list[int]:
    """A random order of all positions in which those of a kind lie evenly spaced."""
    counts = Counter(kinds)
    following = {kind: rng.random() for kind in sorted(counts)}
    places = {}
    for at in (int(at) for at in rng.permutation(len(kinds))):
        places[at] = following[kinds[at]] / counts[kinds[at]]
        following[kinds[at]] += 1
    return sorted(places, key=places.__getitem__)


def lr_scale(config: GrpoConfig, step: int) -> float:
    """The share of `grpo.lr` that `step` learns with, above 0 and at most 1."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return warmup * (1 - step / max(1, config.steps)) if config.lr_decays else warmup
