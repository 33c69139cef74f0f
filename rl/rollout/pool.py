"""Workers as Ray actors that play groups of assignments; one that fails is replaced, and what it owed is played again.

Work is pulled: a worker that answers gets more, as long as it has room. Nothing is decided here but when to call whom;
who plays what is `rl.rollout.dispatcher`'s account, and what failures mean is told in `rl.rollout.failures`.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from configs.schema import RunConfig
from env.types import Trajectory
from rl.rollout.dispatcher import Capacity, Dispatcher
from rl.rollout.episode_worker import WorkBatch, Worker, WorkerStats, WorkResult
from rl.rollout.failures import Failure, WorkerStuckError, failed, failure_of
from rl.rollout.request import RolloutRequest
from rl.runtime.placement import PlacementGroup

CPUS = 1  # that Ray counts per worker
CALLS = 2  # under way per busy worker: one that it works on, and one that it finds when that is done
logger = logging.getLogger(__name__)


@dataclass
class _WorkerHandle:
    """A worker's place: the actor that has it now, and the calls it has not answered yet, in order."""

    actor: Any
    calls: deque[Any] = field(default_factory=deque)
    heard: float = field(default_factory=time.monotonic)  # when it answered last, or was called after a pause
    is_up: bool = False  # it has answered once


class Pool:
    """`num_workers` actors of `actor`, a `rl.rollout.episode_worker.Worker`."""

    def __init__(
        self,
        config: RunConfig,
        actor: type[Worker],
        arguments: Sequence[Any],
        num_workers: int,
        capacity: Capacity | None,
    ):
        """Without `room` a worker gets one whole group at a time."""
        self.config = config
        self.failures: Counter[Failure] = Counter()
        self._stats: dict[int, WorkerStats] = defaultdict(WorkerStats)  # by worker
        self._capacity = capacity
        self._actor = actor
        self._arguments = arguments
        self._play = 0
        self._failed_starts = 0  # in a row
        sampler = config.sampler
        what = "workers (grpo.workers, eval.workers, sampler.gpus_per_worker)"
        self._placement = PlacementGroup(num_workers, CPUS, sampler.gpus_per_worker, sampler.load_seconds, what)
        self._workers = [self._start(worker) for worker in range(num_workers)]

    def _start(self, worker: int) -> _WorkerHandle:
        gpus, place = self.config.sampler.gpus_per_worker, self._placement.of(worker)
        actor: Any = ray.remote(num_cpus=CPUS, num_gpus=gpus, max_restarts=0, scheduling_strategy=place)(self._actor)
        handle = actor.remote(*self._arguments)
        return _WorkerHandle(handle, deque([handle.pid.remote()]))

    def pids(self) -> list[int]:
        """Process ids of the workers; waits until their engines are loaded."""
        return ray.get([handle.actor.pid.remote() for handle in self._workers])

    def run(
        self, groups: Sequence[Sequence[RolloutRequest]], option: Any, seconds: float = float("inf")
    ) -> Generator[Trajectory, None, None]:
        """Each assignment's trajectory exactly once, as they finish; `option` is handed to the workers.

        Those that failed too often, or are not finished after `seconds`, end as errors.
        """
        self._play += 1
        dispatcher = Dispatcher(groups, self._capacity, self.config.grpo.max_attempts)
        deadline = time.monotonic() + seconds
        for handle in self._workers:
            handle.heard = time.monotonic()  # nobody listened between two plays
        while dispatcher.unfinished:
            self._call(dispatcher, option)
            for worker, answer in self._answers():
                if isinstance(answer, WorkResult):
                    self._stats[worker].add(answer)
                    yield from (item for item in answer.finished if dispatcher.accept(worker, item.trajectory_id))
                else:
                    yield from self._replace(worker, answer, dispatcher)
            if time.monotonic() > deadline:
                reason = f"the step took longer than grpo.max_rollout_seconds ({seconds:g})"
                yield from (failed(item, reason) for item in dispatcher.give_up())

    def take_stats(self) -> dict[int, WorkerStats]:
        """What each worker did since the last look."""
        stats, self._stats = self._stats, defaultdict(WorkerStats)
        return dict(stats)

    def close(self) -> None:
        for handle in self._workers:
            ray.kill(handle.actor)
        self._placement.free()

    def _call(self, dispatcher: Dispatcher, option: Any) -> None:
        """Give out work to workers that can be called, and keep calls under way at those that have any."""
        callable_ = [at for at, handle in enumerate(self._workers) if handle.is_up and len(handle.calls) < CALLS]
        batches = dispatcher.hand_out(callable_)
        for worker in callable_:
            handle = self._workers[worker]
            if not handle.calls:
                handle.heard = time.monotonic()
            batch = WorkBatch(self._play, option, tuple(batches.get(worker, ())))
            while dispatcher.load(worker) and len(handle.calls) < CALLS:
                handle.calls.append(handle.actor.exchange.remote(batch))
                batch = WorkBatch(self._play, option)

    def _answers(self) -> list[tuple[int, WorkResult | Exception]]:
        """What has come back, or went wrong, once there is anything or a while has passed."""
        firsts = {handle.calls[0]: at for at, handle in enumerate(self._workers) if handle.calls}
        ready, _ = ray.wait(list(firsts), num_returns=1, timeout=1.0)
        if ready:
            ready, _ = ray.wait(list(firsts), num_returns=len(firsts), timeout=0)
        answers: list[tuple[int, WorkResult | Exception]] = []
        for call in ready:
            worker = firsts[call]
            handle = self._workers[worker]
            try:
                answer = ray.get(call)
            except RayError as error:
                answers.append((worker, error))
                continue
            handle.calls.popleft()
            handle.heard = time.monotonic()
            if isinstance(answer, WorkResult):
                answers.append((worker, answer))
            handle.is_up = True
        return answers + self._silent(set(firsts.values()))

    def _silent(self, called: set[int]) -> list[tuple[int, Exception]]:
        """Called workers that have not answered for too long; loading an engine is given more time."""
        limits = {True: self.config.sampler.stall_seconds, False: self.config.sampler.load_seconds}
        now = time.monotonic()
        found: list[tuple[int, Exception]] = []
        for worker in called:
            handle = self._workers[worker]
            if now - handle.heard > limits[handle.is_up]:
                found.append((worker, WorkerStuckError(f"silent for more than {limits[handle.is_up]:g} seconds")))
        return found

    def _replace(self, worker: int, problem: Exception, dispatcher: Dispatcher) -> Iterator[Trajectory]:
        """Start another worker in the place of one that failed; yields what is given up thereby.

        RuntimeError when workers fail as often as `grpo.max_attempts` before any has come up.
        """
        failure = failure_of(problem)
        handle = self._workers[worker]
        self.failures[failure] += 1
        self._stats[worker].restarts += 1
        self._failed_starts = 0 if handle.is_up else self._failed_starts + 1
        if self._failed_starts >= self.config.grpo.max_attempts:
            raise RuntimeError(f"no worker comes up, after {self._failed_starts} attempts: {problem}")
        logger.warning("worker %d is replaced (%s): %s", worker, failure, problem)
        ray.kill(handle.actor)
        self._workers[worker] = self._start(worker)
        reason = f"its worker failed in every attempt, the last time so: {failure}: {problem}"
        yield from (failed(item, reason) for item in dispatcher.lose(worker))
