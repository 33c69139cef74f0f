"""Several data sets as one endless, seeded stream: which task stands at which position is a pure function.

So a resumed run needs no cursor but its position. Positions come in epochs as long as all sets together. In an epoch
each set is drawn in proportion to its weight, whatever its size, its draws evenly spaced; a set whose share is larger
than it is comes round and round in one order, so that between two draws of a task lie all others of its set.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from cot_data.tasks import Outline, Tasks
from env.errors import DataError


def epoch_length(sizes: tuple[int, ...], weights: tuple[float, ...]) -> int:
    """Positions of one epoch."""
    return sum(_counts(sizes, weights))


@lru_cache(2)
def epoch_order(
    sizes: tuple[int, ...], weights: tuple[float, ...], seed: int, epoch: int
) -> tuple[tuple[int, int], ...]:
    """(set, item of the set) at every position of an epoch."""
    rng = np.random.default_rng([seed, epoch])
    places = []
    for number, (size, count) in enumerate(zip(sizes, _counts(sizes, weights), strict=True)):
        order, phase = rng.permutation(size), rng.random()
        places += [((k + phase) / count, number, int(order[k % size])) for k in range(count)]
    return tuple((number, item) for _, number, item in sorted(places))


def _counts(sizes: tuple[int, ...], weights: tuple[float, ...]) -> list[int]:
    """Draws of each set in an epoch."""
    return [max(1, round(sum(sizes) * weight / sum(weights))) for weight in weights]


class Mixture:
    """Data sets with their weights."""

    def __init__(self, parts: Sequence[Tasks], weights: Sequence[float]):
        """DataError where a set is empty, or two tasks have one id: trajectories are told apart by it."""
        self.parts, self.weights = tuple(parts), tuple(weights)
        self.sizes = tuple(len(part) for part in parts)
        if 0 in self.sizes:
            raise DataError(f"data.train.{self.sizes.index(0)}", "expected a data set with tasks in it, found none")
        seen: dict[str, int] = {}
        for number, part in enumerate(parts):
            for outline in part.outlines:
                if seen.setdefault(outline.task_id, number) != number:
                    problem = f"task {outline.task_id} is also in data.train.{seen[outline.task_id]}; rename one root"
                    raise DataError(f"data.train.{number}", problem)

    @property
    def outlines(self) -> list[Outline]:
        return [outline for part in self.parts for outline in part.outlines]

    def places_for_step(self, per_step: int, seed: int, step: int) -> list[tuple[int, int]]:
        """(set, item of the set) of the `per_step` tasks of `step`, all different; an epoch's remainder is left out.

        ValueError where a set is too small for its share of one step.
        """
        length = epoch_length(self.sizes, self.weights)
        epoch, at = divmod(step, max(1, length // per_step))
        order = epoch_order(self.sizes, self.weights, seed, epoch)[at * per_step : (at + 1) * per_step]
        if len(set(order)) < per_step:
            problem = f"{sum(self.sizes)} tasks in sets of {self.sizes} with weights {self.weights}"
            raise ValueError(f"{problem} do not give grpo.tasks_per_step {per_step} different ones; lower it")
        return list(order)
