"""Which groups a step trains on. Groups that did alike teach nothing, so others may be drawn in their place.

The dynamic sampling of DAPO (arXiv 2503.14476), with a bound on the draws. Tasks come in the order of the stream, and
its position is all that is kept from step to step, so a resumed run draws the same.
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
    """The groups of one step, each list in the order of drawing."""

    sampled: list[Group]  # all, with those that ended in an error
    valid: list[Group]  # with enough members that did not fail
    trained: list[Group]  # those to train on, at most `grpo.tasks_per_step`
    cursor: int  # position of the stream behind the last task


def sample_groups(
    stream: TaskStream,
    cursor: int,
    play: Callable[[list[Task]], list[Group]],
    score_without_update: Callable[[Sequence[Group]], None],
    config: GrpoConfig,
) -> StepGroups:
    """`tasks_per_step` groups; with `refill` above 1 further ones for those without advantages, up to that multiple.

    `rate` scores groups and fills in their advantages; without refilling it is not asked, and all that is sound is
    trained on. Where the bound is reached, groups without advantages make up the number: they still hold the policy to
    its reference and its masks to gold. RuntimeError when no group is sound.
    """
    wanted = config.tasks_per_step
    most = min(wanted * config.max_oversampling, stream.num_tasks)  # of a small data set a step may draw every task
    sampled: list[Group] = []
    missing = wanted
    while missing > 0:
        tasks, cursor = stream.take(missing, cursor, [group[0].task.task_id for group in sampled])
        new = play(tasks)
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


def _valid(groups: Sequence[Group], least: int) -> list[Group]:
    """Groups without what ended as an error, as far as at least `least` members are left."""
    valid = [[item for item in group if item.stop_reason is not StopReason.ERROR] for group in groups]
    return [group for group in valid if len(group) >= least]


def _has_advantage(group: Group) -> bool:
    """Whether a member is known to be better or worse than its siblings."""
    return any(trajectory.advantage for trajectory in group)
