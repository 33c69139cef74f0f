"""Selection of the groups that a step trains on. Groups with equal rewards carry no advantage and may be replaced.

This is the dynamic sampling of DAPO (arXiv 2503.14476), with a bound on the number of groups. Tasks come in the order
of the stream. Its position is the only state kept from step to step, so a resumed run samples the same tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from configs.schema import GrpoConfig
from env.types import StopReason, Task, Trajectory
from rl.rollout.task_stream import TaskStream

Group = list[Trajectory]


@dataclass(frozen=True)
class StepGroups:
    """The groups of one step, each list in the order of sampling."""

    sampled: list[Group]  # all, including trajectories that ended in an error
    valid: list[Group]  # without failed trajectories; groups of fewer than `grpo.min_group` left are not among them
    trained: list[Group]  # the valid groups to train on, at most `grpo.tasks_per_step`
    cursor: int  # position in the stream after the last task


def sample_groups(
    stream: TaskStream,
    cursor: int,
    run: Callable[[list[Task]], list[Group]],
    score_without_update: Callable[[Sequence[Group]], None],
    config: GrpoConfig,
) -> StepGroups:
    """Sample `tasks_per_step` groups, and replace groups without advantages up to `max_oversampling` times as many.

    With `max_oversampling` 1 nothing is scored here, and all valid groups are trained on. When the bound is reached,
    groups without advantages fill up the number: they still train the KL and the masks.

    Args:
        stream: The tasks of the run.
        cursor: Position in the stream of the first task.
        run: Rolls out one group for each task, in order.
        score_without_update: Fills in the scores and advantages of valid groups; called only with oversampling.
        config: `tasks_per_step`, `max_oversampling` and `min_group` are read.

    Returns:
        The groups of the step.

    Raises:
        RuntimeError: No group is valid.
    """
    wanted = config.tasks_per_step
    most = min(wanted * config.max_oversampling, stream.num_tasks)  # a step may use up a small data set
    sampled: list[Group] = []
    missing = wanted
    while missing > 0:
        tasks, cursor = stream.take(missing, cursor, [group[0].task.task_id for group in sampled])
        new = run(tasks)
        sampled += new
        if config.max_oversampling > 1:
            score_without_update(_valid(new, config.min_group))
        missing = min(wanted - sum(map(_has_advantage, sampled)), most - len(sampled))
    valid = _valid(sampled, config.min_group)
    if not valid:
        reasons = sorted({item.error for group in sampled for item in group if item.error})[:3]
        raise RuntimeError(f"step {sampled[0][0].step}: every group failed; reasons: {'; '.join(reasons)}")
    best = sorted(range(len(valid)), key=lambda at: not _has_advantage(valid[at]))[:wanted]
    return StepGroups(sampled, valid, [valid[at] for at in sorted(best)], cursor)


def _valid(groups: Sequence[Group], min_group: int) -> list[Group]:
    """Return the groups without trajectories that ended in an error, if at least `min_group` are left."""
    valid = [[item for item in group if item.stop_reason is not StopReason.ERROR] for group in groups]
    return [group for group in valid if len(group) >= min_group]


def _has_advantage(group: Group) -> bool:
    """Return whether a trajectory is known to be better or worse than its siblings."""
    return any(trajectory.advantage for trajectory in group)
