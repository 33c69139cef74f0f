"""Who plays what: a pure account of the groups that wait, and of what each worker owes.

A group's siblings go to one worker, for they share a prefix; the least loaded comes first. Near the end, when others
would be idle, what its worker cannot begin yet goes to them. What a lost worker owed is tried again, before all that
waits, and the last time alone: an episode that breaks its engine takes no other with it.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from rl.rollout.request import RolloutRequest


@dataclass(frozen=True)
class Capacity:
    """How many episodes a worker takes."""

    running: int  # plays at once
    queued: int  # keeps ready besides, so that it need not wait for the next


@dataclass(frozen=True)
class _QueuedGroup:
    """Assignments that stay together. An `alone` one needs an idle worker, which gets nothing else meanwhile."""

    requests: tuple[RolloutRequest, ...]
    alone: bool = False


class Dispatcher:
    """Hands groups to workers, named by numbers, and takes their trajectories, each once.

    Without `room` a worker gets one whole group at a time.
    """

    def __init__(self, groups: Iterable[Sequence[RolloutRequest]], capacity: Capacity | None, max_attempts: int):
        self._capacity = capacity
        self._max_attempts = max_attempts
        self._waiting = deque(_QueuedGroup(tuple(group), alone=capacity is None) for group in groups if group)
        self._begun: dict[int, deque[RolloutRequest]] = defaultdict(deque)  # worker -> what is left of its latest group
        self._unhanded = sum(len(group.requests) for group in self._waiting)  # of those that wait or are begun
        self._owed: dict[int, dict[str, RolloutRequest]] = defaultdict(dict)  # worker -> by trajectory id
        self._alone: set[int] = set()  # workers that play such a lot
        self._attempts: Counter[str] = Counter()  # by trajectory id

    @property
    def unfinished(self) -> int:
        """Episodes that wait or are owed."""
        return self._unhanded + sum(map(len, self._owed.values()))

    def load(self, worker: int) -> int:
        """Episodes that `worker` owes."""
        return len(self._owed[worker])

    def hand_out(self, workers: Collection[int]) -> dict[int, list[RolloutRequest]]:
        """What each of `workers` is to begin now, in order. Nothing overtakes a lot that finds no room."""
        batches: dict[int, list[RolloutRequest]] = defaultdict(list)
        for worker in workers:
            self._go_on(worker, batches)
        while self._waiting:
            group = self._waiting[0]
            able = [worker for worker in workers if self._can_begin(worker, group)]
            if not able:
                return batches
            worker = min(able, key=self.load)
            self._waiting.popleft()
            if group.alone:
                self._alone.add(worker)
                for request in group.requests:
                    self._hand(request, worker, batches)
            else:
                self._begun[worker].extend(group.requests)
                self._go_on(worker, batches)
        self._spread(workers, batches)
        return batches

    def accept(self, worker: int, trajectory_id: str) -> bool:
        """Whether `worker` owes this trajectory, which is then settled; False for what is late or came before."""
        if self._owed[worker].pop(trajectory_id, None) is None:
            return False
        if not self._owed[worker]:
            self._alone.discard(worker)
        return True

    def lose(self, worker: int) -> list[RolloutRequest]:
        """Take back what a lost worker owed; returns what has been tried often enough."""
        self._alone.discard(worker)
        if left := self._begun.pop(worker, None):
            self._waiting.appendleft(_QueuedGroup(tuple(left)))
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
            alone = self._capacity is None or tried == self._max_attempts - 1
            self._waiting.appendleft(_QueuedGroup(tuple(items), alone))
            self._unhanded += len(items)
        return given_up

    def give_up(self) -> list[RolloutRequest]:
        """Stop expecting anything; returns what is unfinished."""
        left = [item for group in self._waiting for item in group.requests]
        left += [item for begun in self._begun.values() for item in begun]
        left += [item for owed in self._owed.values() for item in owed.values()]
        self._waiting.clear()
        self._begun.clear()
        self._owed.clear()
        self._alone.clear()
        self._unhanded = 0
        return left

    def _limit(self) -> int:
        """Episodes that a worker may owe: near the end none keeps ready what another could begin."""
        assert self._capacity is not None
        is_plenty = self._unhanded > self._capacity.queued * len(self._owed)
        return self._capacity.running + (self._capacity.queued if is_plenty else 0)

    def _can_begin(self, worker: int, group: _QueuedGroup) -> bool:
        if group.alone or worker in self._alone:
            return not self.load(worker) and not self._begun[worker]
        return not self._begun[worker] and self.load(worker) < self._limit()

    def _go_on(self, worker: int, batches: dict[int, list[RolloutRequest]]) -> None:
        """Hand `worker` what it may take of the group that it has begun."""
        begun = self._begun[worker]
        while begun and self.load(worker) < self._limit():
            self._hand(begun.popleft(), worker, batches)

    def _spread(self, workers: Collection[int], batches: dict[int, list[RolloutRequest]]) -> None:
        """Nothing waits any more: fill free slots with siblings that their workers have no slot for."""
        if self._capacity is None:
            return
        running = self._capacity.running
        while True:
            free = [worker for worker in workers if self.load(worker) < running and worker not in self._alone]
            full = [worker for worker, begun in self._begun.items() if begun and self.load(worker) >= running]
            if not free or not full:
                return
            giver = max(full, key=lambda worker: len(self._begun[worker]))
            self._hand(self._begun[giver].pop(), min(free, key=self.load), batches)

    def _hand(self, request: RolloutRequest, worker: int, batches: dict[int, list[RolloutRequest]]) -> None:
        self._owed[worker][request.trajectory_id] = request
        self._unhanded -= 1
        batches[worker].append(request)
