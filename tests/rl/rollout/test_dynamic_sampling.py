"""The stream of tasks, and the groups that a step samples and trains on."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from configs.schema import GrpoConfig
from cot_data.datasets.mixture import Mixture
from cot_data.faults import RAISE, Faults
from cot_data.tasks import Entry, Outline, Tasks
from env.types import StopReason, Task, Trajectory, VideoRef
from rl.rollout.dynamic_sampling import FailedStepError, Group, StepGroups, sample_groups
from rl.rollout.task_stream import TaskStream, items_for_step


class NoFootage:
    def ref(self, faults: Faults = RAISE) -> VideoRef:
        return VideoRef("/nowhere", "v", ("00000",), 1, 64, 64)

    def check(self, faults: Faults) -> VideoRef | None:
        return self.ref(faults)


def tasks(count: int) -> Tasks:
    outlines = [Outline(f"set/{at}", "the dog", family="ab"[at % 2]) for at in range(count)]
    return Tasks([Entry(outline, NoFootage(), None, "file") for outline in outlines])


def stream(count: int, per_step: int, seed: int = 5) -> TaskStream:
    return TaskStream(Mixture([tasks(count)], [1.0]), per_step, seed)


def ids(items: Sequence[Task]) -> list[str]:
    return [task.task_id for task in items]


def test_consecutive_parts_of_the_stream_are_the_tasks_of_the_steps():
    kinds = [outline.family for outline in tasks(10).outlines]
    steps = [items_for_step(ids(tasks(10)), kinds, 4, 5, step) for step in range(6)]
    assert [ids(stream(10, 4).take(4, 4 * step)[0]) for step in range(6)] == steps
    first, cursor, _ = stream(10, 4).take(3, 0)
    rest, end, _ = stream(10, 4).take(5, cursor, ids(first))
    assert (cursor, end) == (3, 8) and ids(first + rest) == steps[0] + steps[1], "however it is split"


def test_a_task_that_the_step_already_has_is_skipped():
    """Where two epochs meet, the last task of one may be the first of the next."""
    whole = [ids(stream(4, 4).take(4, start)[0]) for start in (0, 4)]
    last = [task_id for task_id in whole[1] if task_id != whole[0][3]]
    taken, cursor, _ = stream(4, 4).take(3, 4, whole[0][3:])
    assert ids(taken) == last and cursor == 4 + whole[1].index(last[2]) + 1
    with pytest.raises(
        ValueError, match=r"a step needs 5 different tasks, but the data has 4; lower grpo\.tasks_per_step"
    ):
        stream(4, 4).take(3, 4, whole[0][:2])


def group(task: Task, stop: StopReason = StopReason.ANSWERED) -> Group:
    return [Trajectory(f"0/{task.task_id}/{g}", task, 0, g, stop_reason=stop, error="lost") for g in range(2)]


class Rollouts:
    """Gives equal rewards to all groups of the first `num_tied` rounds, and to tasks in `always_tied`.

    Tasks in `failing` end in errors.
    """

    def __init__(self, num_tied: int = 0, always_tied: Sequence[str] = (), failing: Sequence[str] = ()):
        self.num_tied, self.always_tied, self.failing = num_tied, always_tied, failing
        self.rounds: list[list[str]] = []
        self.num_scored = 0

    def run(self, new_tasks: list[Task]) -> list[Group]:
        self.rounds.append(ids(new_tasks))
        return [
            group(task, StopReason.ERROR if task.task_id in self.failing else StopReason.ANSWERED) for task in new_tasks
        ]

    def score_without_update(self, groups: Sequence[Group]) -> None:
        self.num_scored += 1
        for members in groups:
            is_tied = self.num_scored <= self.num_tied or members[0].task.task_id in self.always_tied
            for trajectory, advantage in zip(members, (-1.0, 1.0), strict=True):
                trajectory.advantage = 0.0 if is_tied else advantage

    def sample(self, max_oversampling: int, cursor: int = 0, num_tasks: int = 20) -> StepGroups:
        config = GrpoConfig(tasks_per_step=4, max_oversampling=max_oversampling)
        return sample_groups(stream(num_tasks, 4), cursor, self.run, self.score_without_update, config)


def names(groups: Sequence[Group]) -> list[str]:
    return [members[0].task.task_id for members in groups]


ORDER = ids(stream(20, 4).take(20, 0)[0])


def test_without_oversampling_nothing_is_scored_and_all_groups_are_trained_on():
    rollouts = Rollouts(num_tied=9)
    step_groups = rollouts.sample(1, cursor=4)
    assert rollouts.num_scored == 0 and rollouts.rounds == [ORDER[4:8]]
    assert (
        names(step_groups.trained) == names(step_groups.valid) == names(step_groups.sampled) == ORDER[4:8]
        and step_groups.cursor == 8
    )


def test_groups_with_equal_rewards_are_replaced_by_the_next_of_the_stream():
    rollouts = Rollouts(num_tied=1)
    step_groups = rollouts.sample(3)
    assert rollouts.rounds == [ORDER[:4], ORDER[4:8]], "no more than needed"
    assert (
        names(step_groups.trained) == ORDER[4:8] and names(step_groups.sampled) == ORDER[:8] and step_groups.cursor == 8
    )

    rollouts = Rollouts(always_tied=[ORDER[1], ORDER[4]])
    step_groups = rollouts.sample(3)
    assert rollouts.rounds == [ORDER[:4], [ORDER[4]], [ORDER[5]]]
    assert names(step_groups.trained) == [ORDER[0], *ORDER[2:4], ORDER[5]] and step_groups.cursor == 6


def test_at_the_bound_groups_with_equal_rewards_fill_up_the_number():
    rollouts = Rollouts(always_tied=[ORDER[at] for at in (0, 1, 3, 4, 5, 7)])
    step_groups = rollouts.sample(2)
    assert rollouts.rounds == [ORDER[:4], ORDER[4:7], [ORDER[7]]]
    assert names(step_groups.trained) == [ORDER[at] for at in (0, 1, 2, 6)] and step_groups.cursor == 8


def test_no_step_samples_more_tasks_than_there_are():
    rollouts = Rollouts(num_tied=9)
    step_groups = rollouts.sample(9, num_tasks=6)
    assert [len(each) for each in rollouts.rounds] == [4, 2] and len(set(names(step_groups.sampled))) == 6
    assert names(step_groups.trained) == rollouts.rounds[0]


def test_failed_groups_are_replaced_too_and_never_trained_on():
    rollouts = Rollouts(failing=[ORDER[2]])
    step_groups = rollouts.sample(2)
    assert rollouts.rounds == [ORDER[:4], [ORDER[4]]]
    assert names(step_groups.trained) == names(step_groups.valid) == [*ORDER[:2], *ORDER[3:5]]
    assert names(Rollouts(failing=ORDER[:2]).sample(1).trained) == ORDER[2:4]


def test_a_step_with_too_many_failures_ends_the_run():
    with pytest.raises(FailedStepError, match=r"step 0: 6 of 8 .* grpo\.max_failed_share \(0\.5\); .*: lost \(6\)"):
        Rollouts(failing=ORDER[:3]).sample(1)
    with pytest.raises(FailedStepError, match=r"step 0: every group failed; most frequent reasons: lost \(16\)"):
        Rollouts(failing=ORDER).sample(2)
