"""Mix several data sets into one endless, seeded stream. The task at a position is a pure function of the position.

So a resumed run only needs its position. The stream consists of epochs, each as long as all data sets together. Within
an epoch each data set is sampled in proportion to its weight, whatever its size, at evenly spaced positions. A data set
smaller than its number of samples is repeated in one order, so that all of its other tasks come between two samples of
a task.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from cot_data.tasks import Outline, Tasks
from env.errors import DataError


def epoch_length(sizes: tuple[int, ...], weights: tuple[float, ...]) -> int:
    """Return the number of positions of one epoch."""
    return sum(_counts(sizes, weights))


@lru_cache(2)
def epoch_order(
    sizes: tuple[int, ...], weights: tuple[float, ...], seed: int, epoch: int
) -> tuple[tuple[int, int], ...]:
    """Return the (data set, item of the data set) at every position of an epoch.

    Args:
        sizes: number of tasks of each data set.
        weights: sampling weight of each data set, > 0.
        seed: of the whole stream.
        epoch: from 0.

    Returns:
        `epoch_length(sizes, weights)` pairs of indices.
    """
    rng = np.random.default_rng([seed, epoch])
    places = []
    for number, (size, count) in enumerate(zip(sizes, _counts(sizes, weights), strict=True)):
        order, phase = rng.permutation(size), rng.random()
        places += [((k + phase) / count, number, int(order[k % size])) for k in range(count)]
    return tuple((number, item) for _, number, item in sorted(places))


def _counts(sizes: tuple[int, ...], weights: tuple[float, ...]) -> list[int]:
    """Number of samples of each data set in an epoch."""
    return [max(1, round(sum(sizes) * weight / sum(weights))) for weight in weights]


class Mixture:
    """Data sets with their sampling weights."""

    def __init__(self, parts: Sequence[Tasks], weights: Sequence[float]):
        """DataError if a data set is empty, or two data sets share a task id, which identifies trajectories."""
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
        """The metadata of all tasks, one data set after the other."""
        return [outline for part in self.parts for outline in part.outlines]

    def places_for_step(self, per_step: int, seed: int, step: int) -> list[tuple[int, int]]:
        """Return the (data set, item of the data set) of each task of a step; the remainder of an epoch is left out.

        Args:
            per_step: number of tasks of a step.
            seed: of the whole stream.
            step: from 0.

        Returns:
            `per_step` different pairs of indices.

        Raises:
            ValueError: the data sets are too small for that many different tasks.
        """
        length = epoch_length(self.sizes, self.weights)
        epoch, at = divmod(step, max(1, length // per_step))
        order = epoch_order(self.sizes, self.weights, seed, epoch)[at * per_step : (at + 1) * per_step]
        if len(set(order)) < per_step:
            problem = f"{sum(self.sizes)} tasks in sets of {self.sizes} with weights {self.weights}"
            raise ValueError(f"{problem} do not give grpo.tasks_per_step {per_step} different ones; lower it")
        return list(order)
