"""The worker protocol: a Ray actor that is called with requests and returns the trajectories finished meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from env.types import Trajectory
from rl.rollout.request import RolloutRequest, RolloutStats
from rl.rollout.runner import Runner

BEAT = 0.5  # seconds after which a worker answers even if nothing has finished


@dataclass(frozen=True)
class WorkBatch:
    """The content of one call to a worker."""

    run: int  # number of the `Pool.run` that it belongs to; episodes of earlier ones are dropped
    option: Any  # of that run, for `Worker.prepare`
    requests: Sequence[RolloutRequest] = ()


@dataclass(frozen=True)
class WorkResult:
    """What a worker did during one call."""

    finished: list[Trajectory]
    stats: RolloutStats
    seconds: float  # duration of the call
    live: int  # episodes still in flight


@dataclass
class WorkerStats:
    """Sums over a worker's calls."""

    turns: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    seconds: float = 0.0  # spent in calls
    most_live: int = 0  # most episodes in flight during one call
    restarts: int = 0

    def add(self, result: WorkResult) -> None:
        """Count one call."""
        self.turns += result.stats.turns
        self.prompt_tokens += result.stats.prompt_tokens
        self.cached_tokens += result.stats.cached_tokens
        self.written_tokens += result.stats.written_tokens
        self.seconds += result.seconds
        self.most_live = max(self.most_live, result.live + len(result.finished))


class Worker:
    """Runs episodes in slices of about `BEAT` seconds, one slice per call.

    A worker that works always answers soon, so the pool may replace one that is silent for long. Calls are served in
    order, and the pool keeps two under way while there is work, so the engine never waits for the next call.
    """

    def __init__(self) -> None:
        self._run = -1
        self._live = 0
        self._runner: Runner | None = None

    def pid(self) -> int:
        """Return the process id; by then the engine is loaded."""
        return os.getpid()

    def exchange(self, batch: WorkBatch) -> WorkResult:
        """Start the requests of `batch`; return once an episode has finished, or after `BEAT` seconds."""
        started = time.monotonic()
        if batch.run != self._run:
            if self._runner is not None:
                self._runner.abandon()
            self._run, self._live = batch.run, 0
            self._runner = self.prepare(batch.option)
        assert self._runner is not None
        for request in batch.requests:
            self._runner.begin(request)
        self._live += len(batch.requests)
        finished: list[Trajectory] = []
        while self.busy and not finished and time.monotonic() < started + BEAT:
            finished += self.advance()
        self._live -= len(finished)
        return WorkResult(finished, self._runner.take_stats(), time.monotonic() - started, self._live)

    def prepare(self, option: Any) -> Runner:
        """Return the runner of the episodes of a new `Pool.run`, prepared as its `option` says."""
        raise NotImplementedError

    @property
    def busy(self) -> bool:
        """Whether any episode is in flight."""
        return self._runner is not None and self._runner.busy

    def advance(self) -> list[Trajectory]:
        """Do a small part of the work; return the trajectories that it has finished."""
        assert self._runner is not None
        return self._runner.step()
