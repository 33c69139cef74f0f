"""The order of the tasks: a pure function of the position, so a resumed run needs nothing but its position."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from cot_data.datasets.mixture import Mixture
from cot_data.tasks import UnreadableTask, read_each
from env.types import Task

T = TypeVar("T")


def items_for_step(items: Sequence[T], kinds: Sequence[str], per_step: int, seed: int, step: int) -> list[T]:
    """Return the `per_step` items of `step`, all different. Each epoch shuffles the data and leaves out the remainder.

    Every step gets each kind in proportion, as evenly as whole numbers allow. Otherwise a small step would train
    mostly on the accident of which kinds it got.

    Args:
        items: The data.
        kinds: The kind of each item.
        per_step: Items per step.
        seed: Of the run.
        step: From 0.

    Raises:
        ValueError: There are fewer items than one step needs.
    """
    if len(items) < per_step:
        raise ValueError(f"expected at least grpo.tasks_per_step = {per_step} tasks, found {len(items)}")
    epoch, position = divmod(step, len(items) // per_step)
    order = _shuffle_evenly(kinds, np.random.default_rng([seed, epoch]))
    return [items[at] for at in order[position * per_step : (position + 1) * per_step]]


class Taken(NamedTuple):
    """What `TaskStream.take` has taken from the stream."""

    tasks: list[Task]
    cursor: int  # the position after the last one
    unreadable: list[UnreadableTask]  # passed over


class TaskStream:
    """The endless sequence of a run's tasks; positions count from 0.

    Every `per_step` positions hold different tasks: of a single data set each kind in proportion, of several data sets
    by their weights.
    """

    def __init__(self, tasks: Mixture, per_step: int, seed: int):
        self.tasks, self.per_step, self.seed = tasks, per_step, seed
        self.num_tasks = sum(tasks.sizes)
        self._outlines = [part.outlines for part in tasks.parts]

    def take(self, count: int, cursor: int, without: Collection[str] = ()) -> Taken:
        """Take the next tasks from a position on, all different.

        A task that cannot be read is passed over, and the next one takes its place. There are fewer tasks than `count`
        if too few of the data can be read, or if more than `count` could not be.

        Args:
            count: How many tasks.
            cursor: The first position to read.
            without: Ids of tasks to skip.

        Raises:
            ValueError: The data has too few tasks.
        """
        if count + len(without) > self.num_tasks:
            needed = count + len(without)
            problem = f"a step needs {needed} different tasks, but the data has {self.num_tasks}"
            raise ValueError(f"{problem}; lower grpo.tasks_per_step")
        taken: list[Task] = []
        unreadable: list[UnreadableTask] = []
        seen = set(without)
        places = self._places_from(cursor)
        while len(taken) < count and len(seen) < self.num_tasks and len(unreadable) <= count:
            number, item = next(places)
            cursor += 1
            if self._outlines[number][item].task_id not in seen:
                (task,) = read_each(self.tasks.parts[number][item : item + 1])
                seen.add(task.task_id)
                if isinstance(task, UnreadableTask):
                    unreadable.append(task)
                else:
                    taken.append(task)
        return Taken(taken, cursor, unreadable)

    def _places_from(self, cursor: int) -> Iterator[tuple[int, int]]:
        """Yield (data set, item of it) at every position from `cursor` on."""
        step, at = divmod(cursor, self.per_step)
        while True:
            yield from self._positions(step)[at:]
            step, at = step + 1, 0

    def _positions(self, step: int) -> list[tuple[int, int]]:
        """Return the positions of one step."""
        if len(self.tasks.parts) != 1:
            return self.tasks.places_for_step(self.per_step, self.seed, step)
        kinds = [outline.explore or outline.family for outline in self._outlines[0]]
        return [(0, item) for item in items_for_step(range(len(kinds)), kinds, self.per_step, self.seed, step)]


def _shuffle_evenly(kinds: Sequence[str], rng: np.random.Generator) -> list[int]:
    """Return all positions in a random order in which those of one kind are evenly spaced."""
    counts = Counter(kinds)
    following = {kind: rng.random() for kind in sorted(counts)}
    places = {}
    for at in (int(at) for at in rng.permutation(len(kinds))):
        places[at] = following[kinds[at]] / counts[kinds[at]]
        following[kinds[at]] += 1
    return sorted(places, key=places.__getitem__)
