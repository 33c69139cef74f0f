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
class Drawn:
    """The groups of one step, each list in the order of drawing."""

    played: list[Group]  # all, with what ended as an error
    sound: list[Group]  # those that can be compared
    groups: list[Group]  # those to train on, at most `grpo.tasks_per_step`
    cursor: int  # position of the stream behind the last task


def draw_groups(
    stream: TaskStream,
    cursor: int,
    play: Callable[[list[Task]], list[Group]],
    rate: Callable[[Sequence[Group]], None],
    config: GrpoConfig,
) -> Drawn:
    """`tasks_per_step` groups; with `refill` above 1 further ones for those without advantages, up to that multiple.

    `rate` scores groups and fills in their advantages; without refilling it is not asked, and all that is sound is
    trained on. Where the bound is reached, groups without advantages make up the number: they still hold the policy to
    its reference and its masks to gold. RuntimeError when no group is sound.
    """
    wanted = config.tasks_per_step
    most = min(wanted * config.refill, stream.num_tasks)  # of a small data set a step may draw every task
    played: list[Group] = []
    missing = wanted
    while missing > 0:
        tasks, cursor = stream.take(missing, cursor, [group[0].task.task_id for group in played])
        new = play(tasks)
        played += new
        if config.refill > 1:
            rate(_sound(new, config.min_group))
        missing = min(wanted - sum(map(_teaches, played)), most - len(played))
    sound = _sound(played, config.min_group)
    if not sound:
        reasons = sorted({item.error for group in played for item in group if item.error})[:3]
        raise RuntimeError(f"step {played[0][0].step}: every group failed; reasons: {'; '.join(reasons)}")
    best = sorted(range(len(sound)), key=lambda at: not _teaches(sound[at]))[:wanted]
    return Drawn(played, sound, [sound[at] for at in sorted(best)], cursor)


def _sound(groups: Sequence[Group], least: int) -> list[Group]:
    """Groups without what ended as an error, as far as at least `least` members are left."""
    sound = [[item for item in group if item.stop_reason is not StopReason.ERROR] for group in groups]
    return [group for group in sound if len(group) >= least]


def _teaches(group: Group) -> bool:
    """Whether a member is known to be better or worse than its siblings."""
    return any(trajectory.advantage for trajectory in group)
