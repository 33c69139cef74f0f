"""Requests that are run in short slices, so that a worker process can answer in between. No torch here."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from env.errors import DataError
from env.types import Trajectory
from policy.segmenter import Segmenter
from rl.rollout.failures import failed
from rl.rollout.request import RolloutRequest, RolloutStats


class Runner(Protocol):
    """Takes requests and returns their trajectories. `rl.rollout.episode_worker` runs one behind a Ray actor."""

    @property
    def busy(self) -> bool:
        """Whether any request is unfinished, or finished and not returned by `step` yet."""
        ...

    def begin(self, request: RolloutRequest) -> None:
        """Accept a request; `step` works on it."""
        ...

    def step(self) -> list[Trajectory]:
        """Do a small part of the work; return the trajectories that are finished."""
        ...

    def abandon(self) -> None:
        """Forget all requests; nothing of them is returned any more."""
        ...

    def take_stats(self) -> RolloutStats:
        """Return what was generated since the last call."""
        ...


class OneByOneRunner:
    """Segments one request per step: the runner of families that segment a video in a single pass.

    Data that cannot be read fails its own request only.
    """

    def __init__(self, segmenter: Segmenter):
        self._segmenter = segmenter
        self._waiting: deque[RolloutRequest] = deque()

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    def begin(self, request: RolloutRequest) -> None:
        self._waiting.append(request)

    def step(self) -> list[Trajectory]:
        request = self._waiting.popleft()
        try:
            (trajectory,) = self._segmenter.segment([request.task], request.temperature, request.seed)
        except DataError as error:
            return [failed(request, str(error))]
        if trajectory.trajectory_id != request.trajectory_id:  # the pool would wait for the right one without end
            raise ValueError(f"expected trajectory {request.trajectory_id} of the segmenter, got {trajectory}")
        return [trajectory]

    def abandon(self) -> None:
        self._waiting.clear()

    def take_stats(self) -> RolloutStats:
        return RolloutStats()
