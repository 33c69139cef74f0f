"""A pool of workers, as Ray actors. A worker that fails is replaced, and its unfinished episodes are run again.

Work is pulled: a worker that answers gets more, as long as it has capacity. This module only decides when to call which
worker. `rl.rollout.dispatcher` assigns the requests, and `rl.rollout.failures` says what each failure means.
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

CPUS = 1  # reserved in Ray per worker
CALLS = 2  # under way per busy worker: the one that it works on, and one that waits for it
logger = logging.getLogger(__name__)


@dataclass
class _WorkerHandle:
    """The current actor of a worker, and the calls that it has not answered yet, in order."""

    actor: Any
    calls: deque[Any] = field(default_factory=deque)
    last_answer: float = field(default_factory=time.monotonic)  # or its first call after a pause
    is_up: bool = False  # whether it has answered once


class Pool:
    """Workers of one kind, which run groups of requests."""

    def __init__(
        self,
        config: RunConfig,
        actor: type[Worker],
        arguments: Sequence[Any],
        num_workers: int,
        capacity: Capacity | None,
    ):
        """Start the workers. It does not wait for them to come up.

        Args:
            config: `sampler`, `grpo.max_attempts` and the time limits are read.
            actor: The class of the workers.
            arguments: Arguments of the class.
            num_workers: How many workers to start.
            capacity: How many episodes each may have in flight; None gives it one whole group at a time.

        Raises:
            ConfigError: The cluster has too few free CPUs or GPUs.
        """
        self.config = config
        self.failures: Counter[Failure] = Counter()  # since the start
        self._stats: dict[int, WorkerStats] = defaultdict(WorkerStats)  # by worker
        self._capacity = capacity
        self._actor = actor
        self._arguments = arguments
        self._run = 0  # number of the current run
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
        """Return the workers' process ids, once their engines are loaded."""
        return ray.get([handle.actor.pid.remote() for handle in self._workers])

    def run(
        self, groups: Sequence[Sequence[RolloutRequest]], option: Any, seconds: float = float("inf")
    ) -> Generator[Trajectory, None, None]:
        """Run episodes and yield the trajectory of each request exactly once, in the order in which they finish.

        A request that failed `grpo.max_attempts` times, or is unfinished after `seconds`, yields a trajectory that
        ended in an error.

        Args:
            groups: Requests that stay together on one worker where possible.
            option: Passed to `Worker.prepare`.
            seconds: Time limit of the run.

        Raises:
            RuntimeError: Workers keep failing to start.
        """
        self._run += 1
        dispatcher = Dispatcher(groups, self._capacity, self.config.grpo.max_attempts)
        deadline = time.monotonic() + seconds
        for handle in self._workers:
            handle.last_answer = time.monotonic()  # answers between two runs are not awaited
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
                yield from (failed(item, reason) for item in dispatcher.cancel())

    def take_stats(self) -> dict[int, WorkerStats]:
        """Return each worker's sums since the last call."""
        stats, self._stats = self._stats, defaultdict(WorkerStats)
        return dict(stats)

    def close(self) -> None:
        """End the workers and free their places in the cluster."""
        for handle in self._workers:
            ray.kill(handle.actor)
        self._placement.free()

    def _call(self, dispatcher: Dispatcher, option: Any) -> None:
        """Assign requests to workers that can be called, and keep calls under way at those with work."""
        callable_ = [at for at, handle in enumerate(self._workers) if handle.is_up and len(handle.calls) < CALLS]
        batches = dispatcher.assign(callable_)
        for worker in callable_:
            handle = self._workers[worker]
            if not handle.calls:
                handle.last_answer = time.monotonic()
            batch = WorkBatch(self._run, option, tuple(batches.get(worker, ())))
            while dispatcher.load(worker) and len(handle.calls) < CALLS:
                handle.calls.append(handle.actor.exchange.remote(batch))
                batch = WorkBatch(self._run, option)

    def _answers(self) -> list[tuple[int, WorkResult | Exception]]:
        """Wait up to a second for answers; return (worker, result or error) of all that have come."""
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
            handle.last_answer = time.monotonic()
            if isinstance(answer, WorkResult):
                answers.append((worker, answer))
            handle.is_up = True
        return answers + self._silent(set(firsts.values()))

    def _silent(self, called: set[int]) -> list[tuple[int, Exception]]:
        """Return the `called` workers that have been silent too long; one that loads its engine gets more time."""
        limits = {True: self.config.sampler.stall_seconds, False: self.config.sampler.load_seconds}
        now = time.monotonic()
        found: list[tuple[int, Exception]] = []
        for worker in called:
            handle = self._workers[worker]
            if now - handle.last_answer > limits[handle.is_up]:
                found.append((worker, WorkerStuckError(f"silent for more than {limits[handle.is_up]:g} seconds")))
        return found

    def _replace(self, worker: int, problem: Exception, dispatcher: Dispatcher) -> Iterator[Trajectory]:
        """Start a new worker in place of a failed one; yield the trajectories of requests without an attempt left.

        Args:
            worker: Number of the failed worker.
            problem: The error that came in place of its answer.
            dispatcher: Queues the other requests of the worker again.

        Raises:
            RuntimeError: `grpo.max_attempts` workers in a row failed to start.
        """
        failure = failure_of(problem)
        handle = self._workers[worker]
        self.failures[failure] += 1
        self._stats[worker].restarts += 1
        self._failed_starts = 0 if handle.is_up else self._failed_starts + 1
        if self._failed_starts >= self.config.grpo.max_attempts:
            raise RuntimeError(f"no worker has started in {self._failed_starts} attempts; the last error: {problem}")
        logger.warning("worker %d is replaced (%s): %s", worker, failure, problem)
        ray.kill(handle.actor)
        self._workers[worker] = self._start(worker)
        reason = f"its worker failed in every attempt; the last failure: {failure}: {problem}"
        yield from (failed(item, reason) for item in dispatcher.take_back(worker))
