"""Selection of the groups that a step trains on. Groups with equal rewards carry no advantage and may be replaced.

This is the dynamic sampling of DAPO (arXiv 2503.14476), with a bound on the number of groups. Tasks come in the order
of the stream. Its position is the only state kept from step to step, so a resumed run samples the same tasks.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from configs.schema import GrpoConfig
from cot_data.tasks import UnreadableTask
from env.errors import VideoSegError
from env.types import Task, Trajectory
from rl.rollout.task_stream import TaskStream

logger = logging.getLogger(__name__)
Group = list[Trajectory]


class FailedStepError(VideoSegError):
    """More of a step has failed than `grpo.max_failed_share` allows, or all of it."""


@dataclass(frozen=True)
class StepGroups:
    """The groups of one step, each list in the order of sampling."""

    sampled: list[Group]  # all, including trajectories that ended in an error
    valid: list[Group]  # without failed trajectories; groups of fewer than `grpo.min_group` left are not among them
    trained: list[Group]  # the valid groups to train on, at most `grpo.tasks_per_step`
    cursor: int  # position in the stream after the last task
    unreadable: tuple[UnreadableTask, ...] = ()  # tasks that were passed over

    def after_learning(self, config: GrpoConfig) -> StepGroups:
        """Return the groups without trajectories that failed in the learner. FailedStepError if these are too many."""
        _require_answers(self.sampled, self.unreadable, config)
        return replace(self, valid=valid_groups(self.sampled, config.min_group))


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
        config: `tasks_per_step`, `max_oversampling`, `min_group` and `max_failed_share` are read.

    Returns:
        The groups of the step.

    Raises:
        FailedStepError: More than `max_failed_share` has failed, or no group is valid.
    """
    wanted = config.tasks_per_step
    most = min(wanted * config.max_oversampling, stream.num_tasks)  # a step may use up a small data set
    sampled: list[Group] = []
    unreadable: list[UnreadableTask] = []
    missing = wanted
    while missing > 0:
        known = [group[0].task.task_id for group in sampled] + [task.task_id for task in unreadable]
        count = min(missing, stream.num_tasks - len(known)) if known else missing
        tasks, cursor, passed_over = stream.take(count, cursor, known)
        for task in passed_over:
            logger.warning("task %s cannot be read and is passed over: %s", task.task_id, task.reason)
        unreadable += passed_over
        if not tasks:
            break
        new = run(tasks)
        sampled += new
        if config.max_oversampling > 1:
            score_without_update(valid_groups(new, config.min_group))
        left = most - len(sampled)
        missing = min(wanted - sum(map(_has_advantage, sampled)), left, stream.num_tasks - len(known) - len(new))
    _require_answers(sampled, unreadable, config)
    valid = valid_groups(sampled, config.min_group)
    best = sorted(range(len(valid)), key=lambda at: not _has_advantage(valid[at]))[:wanted]
    return StepGroups(sampled, valid, [valid[at] for at in sorted(best)], cursor, tuple(unreadable))


def valid_groups(groups: Sequence[Sequence[Trajectory]], min_group: int) -> list[Group]:
    """Return the groups without trajectories that ended in an error, if at least `min_group` are left."""
    valid = [[item for item in group if not item.has_failed] for group in groups]
    return [group for group in valid if len(group) >= min_group]


def _require_answers(sampled: Sequence[Group], unreadable: Sequence[UnreadableTask], config: GrpoConfig) -> None:
    """Raise FailedStepError if too much of a step has failed, or if no group can be trained on."""
    failed = [item.error for group in sampled for item in group if item.has_failed]
    failed += [task.reason for task in unreadable for _ in range(config.group_size)]
    total = sum(map(len, sampled)) + len(unreadable) * config.group_size
    reasons = "; ".join(f"{reason} ({count})" for reason, count in Counter(failed).most_common(3))
    advice = f"most frequent reasons: {reasons}; mend them and go on with --resume, which tries them again"
    where = f"step {sampled[0][0].step}: " if sampled else ""
    if not valid_groups(sampled, config.min_group):
        raise FailedStepError(f"{where}every group failed; {advice}")
    if len(failed) > config.max_failed_share * total:
        raise FailedStepError(
            f"{where}{len(failed)} of {total} trajectories failed, a larger share than grpo.max_failed_share "
            f"({config.max_failed_share:g}); {advice}"
        )


def _has_advantage(group: Group) -> bool:
    """Return whether a trajectory is known to be better or worse than its siblings."""
    return any(trajectory.advantage for trajectory in group)
