"""A worker without an engine: its episodes only take time, or harm their process as their task's name says."""

from __future__ import annotations

import heapq
import os
import signal
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from env.errors import CheckpointError
from env.types import StopReason, Task, Trajectory, VideoRef
from rl.rollout.episode_worker import Worker
from rl.rollout.request import RolloutRequest, RolloutStats

FAULTS = ("kill", "raise", "exhaust", "freeze")
VIDEO = VideoRef("/data", "video", (), 8, 32, 32)


def group(name: str, size: int = 4, step: int = 0) -> list[RolloutRequest]:
    """Build the requests of one task."""
    task = Task(name, VIDEO, "the red circle", gold=())
    return [RolloutRequest(task, step, sibling, 0, 1.0) for sibling in range(size)]


@dataclass(frozen=True)
class Named:
    """Seconds of an episode's turns by its trajectory id; an episode that is not named has one turn of 10 ms."""

    seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __call__(self, request: RolloutRequest) -> Sequence[float]:
        return self.seconds.get(request.trajectory_id, (0.01,))


@dataclass(frozen=True)
class HeavyTail:
    """Seconds of `turns` turns, sampled for each episode: log-normal, cut off as a limit of tokens cuts off a turn."""

    median: float
    sigma: float = 1.0
    longest: float = 8.0  # in medians
    turns: int = 3

    def __call__(self, request: RolloutRequest) -> Sequence[float]:
        rng = np.random.default_rng(zlib.crc32(request.trajectory_id.encode()))
        return (self.median * np.minimum(rng.lognormal(0.0, self.sigma, self.turns), self.longest)).tolist()


class StandInRollout:
    """Runs `slots` episodes at a time; `turns` gives the seconds of an episode's turns.

    The first word of a task's name may be one of `FAULTS`. Its first sibling then does that to the process, as often as
    the number that follows says, counted by files in `folder`.
    """

    def __init__(self, slots: int, folder: Path, turns: Callable[[RolloutRequest], Sequence[float]]):
        self.slots = slots
        self.folder = folder
        self.turns = turns
        self._waiting: list[RolloutRequest] = []
        self._running: list[tuple[float, str, RolloutRequest, int]] = []  # (time of its turn's end, name, what, turn)
        self._stats = RolloutStats()

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    def begin(self, request: RolloutRequest) -> None:
        self._waiting.append(request)

    def step(self) -> list[Trajectory]:
        while self._waiting and len(self._running) < self.slots:
            request = self._waiting.pop(0)
            self._misbehave(request)
            self._write(request, 0, time.monotonic())
        time.sleep(min(0.05, max(0.0, self._running[0][0] - time.monotonic())))
        ended = []
        while self._running and self._running[0][0] <= time.monotonic():
            due, _, request, turn = heapq.heappop(self._running)
            self._stats.turns += 1
            if turn + 1 < len(self.turns(request)):
                self._write(request, turn + 1, due)
                continue
            name, task = request.trajectory_id, request.task
            ended.append(Trajectory(name, task, request.step, request.sibling, stop_reason=StopReason.ANSWERED))
        return ended

    def abandon(self) -> None:
        self._waiting.clear()
        self._running.clear()

    def take_stats(self) -> RolloutStats:
        stats, self._stats = self._stats, RolloutStats()
        return stats

    def _write(self, request: RolloutRequest, turn: int, start: float) -> None:
        entry = (start + self.turns(request)[turn], request.trajectory_id, request, turn)
        heapq.heappush(self._running, entry)

    def _misbehave(self, request: RolloutRequest) -> None:
        fault, _, times = request.task.task_id.partition(" ")
        if request.sibling or fault not in FAULTS:
            return
        done = len(list(self.folder.glob(f"{fault}-*")))
        if done >= int(times):
            return
        (self.folder / f"{fault}-{done}").touch()
        if fault == "raise":
            raise ValueError("the engine is broken")
        if fault == "exhaust":
            np.empty(1 << 60, dtype=np.uint8)  # MemoryError
        os.kill(os.getpid(), signal.SIGKILL if fault == "kill" else signal.SIGSTOP)


class StandInWorker(Worker):
    """A worker with a `StandInRollout`. Its option is the message of an error that `prepare` raises, or empty."""

    def __init__(self, slots: int, folder: str, turns: Callable[[RolloutRequest], Sequence[float]]):
        super().__init__()
        if slots < 1:
            raise ValueError("an engine that does not load")
        self._stand_in = StandInRollout(slots, Path(folder), turns)

    def prepare(self, option: str) -> StandInRollout:  # pyright: ignore[reportIncompatibleMethodOverride]
        if option:
            raise CheckpointError(option)
        return self._stand_in
