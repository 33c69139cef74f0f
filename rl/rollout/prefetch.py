"""The rollouts of a run, step after step. Finished trajectories are stored at once; the next step may run ahead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from configs.schema import RunConfig
from env.files import remove_folder
from env.store import TrajectoryStore
from env.types import Task
from rl.rollout.dynamic_sampling import Group, StepGroups, sample_groups
from rl.rollout.request import RolloutRequest
from rl.rollout.rollout_worker import RolloutPool
from rl.rollout.task_stream import TaskStream
from rl.runtime.progress import progress_bar
from rl.runtime.threads import in_background


class RolloutPrefetcher:
    """Samples the groups of each step, with the weights that the pool has when the step's rollout starts.

    With `grpo.rollout_ahead` the rollout of the next step starts, in the background, when a step is taken.
    """

    def __init__(
        self,
        config: RunConfig,
        pool: RolloutPool,
        stream: TaskStream,
        cursor: int,
        score_without_update: Callable[[Sequence[Group]], None],
    ):
        """Start nothing yet.

        Args:
            config: The run's configuration. Finished trajectories of steps that are not trained on yet are stored in
                `<run_dir>/pending`.
            pool: Workers that run the episodes.
            stream: The tasks of the run.
            cursor: Position in the stream after the last step that was trained on.
            score_without_update: Fills in scores and advantages, for `rl.rollout.dynamic_sampling`.
        """
        self.config = config
        self.pool = pool
        self.pending = Path(config.run_dir) / "pending"
        self.stream = stream
        self.cursor = cursor
        self.score_without_update = score_without_update
        self._ahead: Future[StepGroups] | None = None

    def take(self, step: int) -> StepGroups:
        """Return the groups of `step`. Steps are taken in order."""
        step_groups = self._ahead.result() if self._ahead else self._sample(step)
        self.cursor = step_groups.cursor
        self._ahead = None
        self._remove_stored(before=step)
        if self.config.grpo.rollout_ahead and step + 1 < self.config.grpo.steps:
            self._ahead = in_background(partial(self._sample, step + 1))
        return step_groups

    @property
    def is_running(self) -> bool:
        """Whether the workers are busy with the next step."""
        return self._ahead is not None and not self._ahead.done()

    def wait(self) -> None:
        """Wait until the workers are idle. An error of the rollout is raised by `take`, not here."""
        if self._ahead:
            self._ahead.exception()

    def _sample(self, step: int) -> StepGroups:
        """Sample a step. What an interrupted attempt stored is kept, but what failed there is tried again."""
        TrajectoryStore(self._folder(step)).drop_errors()
        run = partial(self._run, step)
        return sample_groups(self.stream, self.cursor, run, self.score_without_update, self.config.grpo)

    def _run(self, step: int, tasks: list[Task]) -> list[Group]:
        """Return `group_size` trajectories for each task. Each is stored at its end, so that a killed run keeps it."""
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

    def _remove_stored(self, before: int) -> None:
        """Remove the pending rollouts of earlier steps, which are trained on and stored with their scores."""
        for folder in self.pending.glob("step-*"):
            if folder < self._folder(before):
                remove_folder(folder)
