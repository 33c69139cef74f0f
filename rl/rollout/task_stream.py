"""The order of the tasks, and how fast a step learns: pure functions of a position, so a resumed run needs no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import TypeVar

import numpy as np

from cot_data.datasets.mixture import Mixture
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


class TaskStream:
    """The tasks of a run one after the other, without end; its positions count from 0.

    Every `per_step` positions hold different tasks: of a single data set its share of each kind, of several by their
    weights.
    """

    def __init__(self, tasks: Mixture, per_step: int, seed: int):
        self.tasks, self.per_step, self.seed = tasks, per_step, seed
        self.num_tasks = sum(tasks.sizes)
        self._outlines = [part.outlines for part in tasks.parts]

    def take(self, count: int, cursor: int, without: Collection[str] = ()) -> tuple[list[Task], int]:
        """The next `count` tasks from position `cursor` on that are not named in `without`, and the position behind.

        No task comes twice. ValueError when there are not as many tasks.
        """
        if count + len(without) > self.num_tasks:
            problem = f"{self.num_tasks} tasks, but a step draws {count + len(without)} different ones"
            raise ValueError(f"{problem}; lower grpo.tasks_per_step")
        taken: list[Task] = []
        seen = set(without)
        places = self._places_from(cursor)
        while len(taken) < count:
            number, item = next(places)
            cursor += 1
            if self._outlines[number][item].task_id not in seen:
                taken.append(self.tasks.parts[number][item])
                seen.add(taken[-1].task_id)
        return taken, cursor

    def _places_from(self, cursor: int) -> Iterator[tuple[int, int]]:
        """(data set, item of it) at every position from `cursor` on."""
        step, at = divmod(cursor, self.per_step)
        while True:
            yield from self._placement(step)[at:]
            step, at = step + 1, 0

    def _placement(self, step: int) -> list[tuple[int, int]]:
        if len(self.tasks.parts) != 1:
            return self.tasks.places_for_step(self.per_step, self.seed, step)
        kinds = [outline.explore or outline.family for outline in self._outlines[0]]
        return [(0, item) for item in items_for_step(range(len(kinds)), kinds, self.per_step, self.seed, step)]


def _spread(kinds: Sequence[str], rng: np.random.Generator) -> list[int]:
    """A random order of all positions in which those of a kind lie evenly spaced."""
    counts = Counter(kinds)
    following = {kind: rng.random() for kind in sorted(counts)}
    places = {}
    for at in (int(at) for at in rng.permutation(len(kinds))):
        places[at] = following[kinds[at]] / counts[kinds[at]]
        following[kinds[at]] += 1
    return sorted(places, key=places.__getitem__)
