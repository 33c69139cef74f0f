"""The rollouts of a run, step after step: what finished is kept at once, and the next may be played ahead."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from configs.schema import RunConfig
from env.store import TrajectoryStore
from env.types import Task
from rl.rollout.dynamic_sampling import Group, StepGroups, sample_groups
from rl.rollout.request import RolloutRequest
from rl.rollout.rollout_worker import RolloutPool
from rl.rollout.task_stream import TaskStream
from rl.runtime.progress import progress_bar
from rl.runtime.threads import in_background


class RolloutPrefetcher:
    """Draws the groups of each step with the weights that the pool has when it begins.

    With `grpo.rollout_ahead` the next step is begun, in the background, when one is taken. `cursor` is the position of
    the stream behind what was learnt from; `rate` is that of `rl.rollout.dynamic_sampling`.
    """

    def __init__(
        self,
        config: RunConfig,
        pool: RolloutPool,
        pending: Path,
        stream: TaskStream,
        cursor: int,
        score_without_update: Callable[[Sequence[Group]], None],
    ):
        self.config = config
        self.pool = pool
        self.pending = pending
        self.stream = stream
        self.cursor = cursor
        self.score_without_update = score_without_update
        self._ahead: Future[StepGroups] | None = None

    def take(self, step: int) -> StepGroups:
        """The groups of `step`; steps are taken in order."""
        step_groups = self._ahead.result() if self._ahead else self._draw(step)
        self.cursor = step_groups.cursor
        self._ahead = None
        self._forget(before=step)
        if self.config.grpo.rollout_ahead and step + 1 < self.config.grpo.steps:
            self._ahead = in_background(partial(self._draw, step + 1))
        return step_groups

    @property
    def playing(self) -> bool:
        """Whether the workers are busy with the next step."""
        return self._ahead is not None and not self._ahead.done()

    def wait(self) -> None:
        """Wait until the workers are free. What went wrong is raised by `take`."""
        if self._ahead:
            self._ahead.exception()

    def _draw(self, step: int) -> StepGroups:
        return sample_groups(
            self.stream, self.cursor, partial(self._play, step), self.score_without_update, self.config.grpo
        )

    def _play(self, step: int, tasks: list[Task]) -> list[Group]:
        """G trajectories per task. What finished is stored at once, so that a killed run does not lose it."""
        pending = TrajectoryStore(self._folder(step))
        finished = {item.trajectory_id: item for item in pending.read()}
        size, seed = self.config.grpo.group_size, self.config.seed
        wanted = [RolloutRequest(task, step, sibling, seed, 1.0) for task in tasks for sibling in range(size)]
        missing = [item for item in wanted if item.trajectory_id not in finished]
        with progress_bar(f"step {step}: rollout", len(wanted), len(wanted) - len(missing)) as advance:
            for trajectory in self.pool.run(missing):
                finished[trajectory.trajectory_id] = trajectory
                pending.append([trajectory])
                advance()
        ordered = [finished[item.trajectory_id] for item in wanted]
        return [ordered[start : start + size] for start in range(0, len(ordered), size)]

    def _folder(self, step: int) -> Path:
        return self.pending / f"step-{step:06d}"

    def _forget(self, before: int) -> None:
        """Remove the rollouts of earlier steps: they are learnt from, and stored with their scores."""
        for folder in self.pending.glob("step-*"):
            if folder < self._folder(before):
                shutil.rmtree(folder)
