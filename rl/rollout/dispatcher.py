"""Assignment of rollout requests to workers. A pure account: which groups wait, and what each worker has in flight.

The requests of a group go to one worker, because siblings share a prefix that its engine caches. The worker with the
fewest requests in flight comes first. Near the end, when other workers would be idle, they get the requests that the
group's worker cannot start yet. The requests of a lost worker are tried again, before all groups that wait. Their last
attempt is made alone on a worker, so that an episode that breaks its engine takes no other episode with it.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from rl.rollout.request import RolloutRequest

Batches = dict[int, list[RolloutRequest]]
"""Worker -> the requests that it is to start now, in order."""


@dataclass(frozen=True)
class Capacity:
    """How many requests a worker may have in flight."""

    running: int  # episodes that it runs at once
    queued: int  # further ones that it has ready, so that it need not wait for the next call


@dataclass(frozen=True)
class _QueuedGroup:
    """Requests that stay together. An exclusive group needs an idle worker, which gets nothing else meanwhile."""

    requests: tuple[RolloutRequest, ...]
    is_exclusive: bool = False


class Dispatcher:
    """Assigns groups to workers, which are named by numbers, and accepts each trajectory once."""

    def __init__(self, groups: Iterable[Sequence[RolloutRequest]], capacity: Capacity | None, max_attempts: int):
        """Queue the groups.

        Args:
            groups: Requests that stay together where possible.
            capacity: Of each worker; None gives a worker one whole group at a time.
            max_attempts: How often a request is tried when its worker is lost.
        """
        self._capacity = capacity
        self._max_attempts = max_attempts
        self._waiting = deque(_QueuedGroup(tuple(group), is_exclusive=capacity is None) for group in groups if group)
        self._started: dict[int, deque[RolloutRequest]] = defaultdict(deque)  # worker -> the rest of its latest group
        self._unassigned = sum(len(group.requests) for group in self._waiting)  # requests waiting, or in `_started`
        self._in_flight: dict[int, dict[str, RolloutRequest]] = defaultdict(dict)  # worker -> by trajectory id
        self._exclusive: set[int] = set()  # workers with an exclusive group
        self._attempts: Counter[str] = Counter()  # failed attempts by trajectory id

    @property
    def unfinished(self) -> int:
        """Number of requests that wait or are in flight."""
        return self._unassigned + sum(map(len, self._in_flight.values()))

    def load(self, worker: int) -> int:
        """Return the number of requests that `worker` has in flight."""
        return len(self._in_flight[worker])

    def assign(self, workers: Collection[int]) -> Batches:
        """Assign requests to `workers`, as far as their capacity allows; groups start in the order of the queue."""
        batches: Batches = defaultdict(list)
        for worker in workers:
            self._continue_group(worker, batches)
        while self._waiting:
            group = self._waiting[0]
            able = [worker for worker in workers if self._can_start(worker, group)]
            if not able:
                return batches
            worker = min(able, key=self.load)
            self._waiting.popleft()
            if group.is_exclusive:
                self._exclusive.add(worker)
                for request in group.requests:
                    self._assign_one(request, worker, batches)
            else:
                self._started[worker].extend(group.requests)
                self._continue_group(worker, batches)
        self._fill_idle_workers(workers, batches)
        return batches

    def accept(self, worker: int, trajectory_id: str) -> bool:
        """Mark a request as finished; False if `worker` does not have it in flight: a late or a repeated result."""
        if self._in_flight[worker].pop(trajectory_id, None) is None:
            return False
        if not self._in_flight[worker]:
            self._exclusive.discard(worker)
        return True

    def take_back(self, worker: int) -> list[RolloutRequest]:
        """Queue again what a lost worker had in flight; return the requests that have no attempt left."""
        self._exclusive.discard(worker)
        if rest := self._started.pop(worker, None):
            self._waiting.appendleft(_QueuedGroup(tuple(rest)))
        lost = self._in_flight.pop(worker, {})
        self._attempts.update(lost.keys())
        given_up, again = [], defaultdict(list)
        for name, request in lost.items():
            tried = self._attempts[name]
            if tried >= self._max_attempts:
                given_up.append(request)
            else:
                again[name if tried == self._max_attempts - 1 else request.task.task_id, tried].append(request)
        for (_, tried), requests in reversed(again.items()):
            is_exclusive = self._capacity is None or tried == self._max_attempts - 1
            self._waiting.appendleft(_QueuedGroup(tuple(requests), is_exclusive))
            self._unassigned += len(requests)
        return given_up

    def cancel(self) -> list[RolloutRequest]:
        """Drop and return all unfinished requests; their late results are not accepted."""
        left = [request for group in self._waiting for request in group.requests]
        left += [request for rest in self._started.values() for request in rest]
        left += [request for in_flight in self._in_flight.values() for request in in_flight.values()]
        self._waiting.clear()
        self._started.clear()
        self._in_flight.clear()
        self._exclusive.clear()
        self._unassigned = 0
        return left

    def _limit(self) -> int:
        """Return how many requests a worker may have in flight: near the end none queues what another could start."""
        assert self._capacity is not None
        is_plenty = self._unassigned > self._capacity.queued * len(self._in_flight)
        return self._capacity.running + (self._capacity.queued if is_plenty else 0)

    def _can_start(self, worker: int, group: _QueuedGroup) -> bool:
        if group.is_exclusive or worker in self._exclusive:
            return not self.load(worker) and not self._started[worker]
        return not self._started[worker] and self.load(worker) < self._limit()

    def _continue_group(self, worker: int, batches: Batches) -> None:
        """Assign to `worker` what it can take of the group that it has started."""
        rest = self._started[worker]
        while rest and self.load(worker) < self._limit():
            self._assign_one(rest.popleft(), worker, batches)

    def _fill_idle_workers(self, workers: Collection[int], batches: Batches) -> None:
        """Once no group waits, assign to workers with free slots the siblings that a full worker cannot start yet."""
        if self._capacity is None:
            return
        running = self._capacity.running
        while True:
            free = [worker for worker in workers if self.load(worker) < running and worker not in self._exclusive]
            full = [worker for worker, rest in self._started.items() if rest and self.load(worker) >= running]
            if not free or not full:
                return
            giver = max(full, key=lambda worker: len(self._started[worker]))
            self._assign_one(self._started[giver].pop(), min(free, key=self.load), batches)

    def _assign_one(self, request: RolloutRequest, worker: int, batches: Batches) -> None:
        self._in_flight[worker][request.trajectory_id] = request
        self._unassigned -= 1
        batches[worker].append(request)
