"""Who plays what: a pure account of the groups that wait, and of what each worker owes.

A group's siblings go to one worker, for they share a prefix; the least loaded comes first. What a lost worker owed is
tried again, before all that waits, and the last time alone: an episode that breaks its engine takes no other with it.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from rl.assignment import Assignment


@dataclass(frozen=True)
class _Lot:
    """Assignments that stay together. An `alone` one needs an idle worker, which gets nothing else meanwhile."""

    assignments: tuple[Assignment, ...]
    alone: bool = False


class Dispatcher:
    """Hands groups to workers, named by numbers, and takes their trajectories, each once.

    `room` is how many episodes a worker takes before it has to finish some; an idle one takes any group.
    """

    def __init__(self, groups: Iterable[Sequence[Assignment]], room: int, max_attempts: int):
        self._room = room
        self._max_attempts = max_attempts
        self._waiting = deque(_Lot(tuple(group)) for group in groups if group)
        self._owed: dict[int, dict[str, Assignment]] = defaultdict(dict)  # worker -> by trajectory id
        self._alone: set[int] = set()  # workers that play such a lot
        self._attempts: Counter[str] = Counter()  # by trajectory id

    @property
    def unfinished(self) -> int:
        """Episodes that wait or are owed."""
        return sum(len(lot.assignments) for lot in self._waiting) + sum(map(len, self._owed.values()))

    def load(self, worker: int) -> int:
        """Episodes that `worker` owes."""
        return len(self._owed[worker])

    def hand_out(self, workers: Collection[int]) -> dict[int, list[Assignment]]:
        """What each of `workers` is to begin now, in order. Nothing overtakes a lot that finds no room."""
        shares: dict[int, list[Assignment]] = {}
        while self._waiting:
            lot = self._waiting[0]
            open_workers = [worker for worker in workers if self._has_room(worker, lot)]
            if not open_workers:
                break
            worker = min(open_workers, key=self.load)
            self._owed[worker] |= {item.trajectory_id: item for item in lot.assignments}
            if lot.alone:
                self._alone.add(worker)
            shares.setdefault(worker, []).extend(lot.assignments)
            self._waiting.popleft()
        return shares

    def accept(self, worker: int, trajectory_id: str) -> bool:
        """Whether `worker` owes this trajectory, which is then settled; False for what is late or came before."""
        if self._owed[worker].pop(trajectory_id, None) is None:
            return False
        if not self._owed[worker]:
            self._alone.discard(worker)
        return True

    def lose(self, worker: int) -> list[Assignment]:
        """Take back what a lost worker owed; returns what has been tried often enough."""
        self._alone.discard(worker)
        owed = self._owed.pop(worker, {})
        self._attempts.update(owed.keys())
        given_up, again = [], defaultdict(list)
        for name, item in owed.items():
            tried = self._attempts[name]
            if tried >= self._max_attempts:
                given_up.append(item)
            else:
                again[name if tried == self._max_attempts - 1 else item.task.task_id, tried].append(item)
        for (_, tried), items in reversed(again.items()):
            self._waiting.appendleft(_Lot(tuple(items), alone=tried == self._max_attempts - 1))
        return given_up

    def give_up(self) -> list[Assignment]:
        """Stop expecting anything; returns what is unfinished."""
        left = [item for lot in self._waiting for item in lot.assignments]
        left += [item for owed in self._owed.values() for item in owed.values()]
        self._waiting.clear()
        self._owed.clear()
        self._alone.clear()
        return left

    def _has_room(self, worker: int, lot: _Lot) -> bool:
        load = self.load(worker)
        if lot.alone or worker in self._alone:
            return load == 0
        return load == 0 or load + len(lot.assignments) <= self._room
