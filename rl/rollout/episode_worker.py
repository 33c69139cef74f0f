"""What plays assignments behind a Ray actor: it is handed some, and gives back what has finished meanwhile."""

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
    """What one call hands over."""

    play: int  # number of the `Pool.play` that it belongs to; what is left of earlier ones is dropped
    option: Any  # of that play
    requests: Sequence[RolloutRequest] = ()


@dataclass(frozen=True)
class WorkResult:
    """What a worker did during one call."""

    finished: list[Trajectory]
    stats: RolloutStats
    seconds: float  # that the call took
    live: int  # episodes still in flight


@dataclass
class WorkerStats:
    """Sums over a worker's reports."""

    turns: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    seconds: float = 0.0  # spent in calls
    most_live: int = 0
    restarts: int = 0

    def add(self, report: WorkResult) -> None:
        self.turns += report.stats.turns
        self.prompt_tokens += report.stats.prompt_tokens
        self.cached_tokens += report.stats.cached_tokens
        self.written_tokens += report.stats.written_tokens
        self.seconds += report.seconds
        self.most_live = max(self.most_live, report.live + len(report.finished))


class Worker:
    """One rollout at a time, played in slices of at most about `BEAT` seconds, so that its silence means trouble.

    Calls are served in order, and two are always under way while there is work: the sampler never waits for the next.
    """

    def __init__(self) -> None:
        self._play = -1
        self._live = 0
        self._rollout: Runner | None = None

    def pid(self) -> int:
        return os.getpid()

    def exchange(self, batch: WorkBatch) -> WorkResult:
        """Take on a share; return once something has finished, or after `BEAT` seconds."""
        started = time.monotonic()
        if batch.play != self._play:
            if self._rollout is not None:
                self._rollout.abandon()
            self._play, self._live = batch.play, 0
            self._rollout = self.prepare(batch.option)
        assert self._rollout is not None
        for request in batch.requests:
            self._rollout.begin(request)
        self._live += len(batch.requests)
        finished: list[Trajectory] = []
        while self.busy and not finished and time.monotonic() < started + BEAT:
            finished += self.advance()
        self._live -= len(finished)
        return WorkResult(finished, self._rollout.take_stats(), time.monotonic() - started, self._live)

    def prepare(self, option: Any) -> Runner:
        """The rollout that plays from now on, made ready as `option` says."""
        raise NotImplementedError

    @property
    def busy(self) -> bool:
        """Whether there is anything left to do."""
        return self._rollout is not None and self._rollout.busy

    def advance(self) -> list[Trajectory]:
        """Do a little of it; returns what is finished thereby."""
        assert self._rollout is not None
        return self._rollout.step()
