"""The stream of tasks, and which groups a step draws and trains on."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from configs.schema import GrpoConfig
from cot_data.datasets.mixture import Mixture
from cot_data.faults import RAISE, Faults
from cot_data.tasks import Entry, Outline, Tasks
from env.types import StopReason, Task, Trajectory, VideoRef
from rl.rollout.dynamic_sampling import Group, StepGroups, sample_groups
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


def test_pieces_of_the_stream_are_the_shares_of_the_steps():
    kinds = [outline.family for outline in tasks(10).outlines]
    steps = [items_for_step(ids(tasks(10)), kinds, 4, 5, step) for step in range(6)]
    assert [ids(stream(10, 4).take(4, 4 * step)[0]) for step in range(6)] == steps
    first, cursor = stream(10, 4).take(3, 0)
    rest, end = stream(10, 4).take(5, cursor, ids(first))
    assert (cursor, end) == (3, 8) and ids(first + rest) == steps[0] + steps[1], "however it is cut"


def test_a_task_that_the_step_has_is_passed_over():
    """Two epochs meet: what came last in one may come first in the next."""
    whole = [ids(stream(4, 4).take(4, start)[0]) for start in (0, 4)]
    last = [task_id for task_id in whole[1] if task_id != whole[0][3]]
    taken, cursor = stream(4, 4).take(3, 4, whole[0][3:])
    assert ids(taken) == last and cursor == 4 + whole[1].index(last[2]) + 1
    with pytest.raises(ValueError, match=r"4 tasks, but a step draws 5 different ones; lower grpo\.tasks_per_step"):
        stream(4, 4).take(3, 4, whole[0][:2])


def group(task: Task, stop: StopReason = StopReason.ANSWERED) -> Group:
    return [Trajectory(f"0/{task.task_id}/{g}", task, 0, g, stop_reason=stop, error="lost") for g in range(2)]


class AssignAdvantages:
    """Ties all groups of its first `num_tied` draws, and of `always_tied`; `failing` end as errors."""

    def __init__(self, num_tied: int = 0, always_tied: Sequence[str] = (), failing: Sequence[str] = ()):
        self.num_tied, self.always_tied, self.failing = num_tied, always_tied, failing
        self.draws: list[list[str]] = []
        self.num_rated = 0

    def play(self, step_groups: list[Task]) -> list[Group]:
        self.draws.append(ids(step_groups))
        return [
            group(task, StopReason.ERROR if task.task_id in self.failing else StopReason.ANSWERED)
            for task in step_groups
        ]

    def score_without_update(self, groups: Sequence[Group]) -> None:
        self.num_rated += 1
        for members in groups:
            is_tied = self.num_rated <= self.num_tied or members[0].task.task_id in self.always_tied
            for trajectory, advantage in zip(members, (-1.0, 1.0), strict=True):
                trajectory.advantage = 0.0 if is_tied else advantage

    def draw(self, refill: int, cursor: int = 0, num_tasks: int = 20) -> StepGroups:
        config = GrpoConfig(tasks_per_step=4, max_oversampling=refill)
        return sample_groups(stream(num_tasks, 4), cursor, self.play, self.score_without_update, config)


def names(groups: Sequence[Group]) -> list[str]:
    return [members[0].task.task_id for members in groups]


ORDER = ids(stream(20, 4).take(20, 0)[0])


def test_without_refilling_nothing_is_rated_and_all_is_trained_on():
    assign = AssignAdvantages(num_tied=9)
    step_groups = assign.draw(refill=1, cursor=4)
    assert assign.num_rated == 0 and assign.draws == [ORDER[4:8]]
    assert (
        names(step_groups.trained) == names(step_groups.valid) == names(step_groups.sampled) == ORDER[4:8]
        and step_groups.cursor == 8
    )


def test_groups_of_equal_rewards_are_replaced_by_the_next_of_the_stream():
    assign = AssignAdvantages(num_tied=1)
    step_groups = assign.draw(refill=3)
    assert assign.draws == [ORDER[:4], ORDER[4:8]], "no more than needed"
    assert (
        names(step_groups.trained) == ORDER[4:8] and names(step_groups.sampled) == ORDER[:8] and step_groups.cursor == 8
    )

    assign = AssignAdvantages(always_tied=[ORDER[1], ORDER[4]])
    step_groups = assign.draw(refill=3)
    assert assign.draws == [ORDER[:4], [ORDER[4]], [ORDER[5]]]
    assert names(step_groups.trained) == [ORDER[0], *ORDER[2:4], ORDER[5]] and step_groups.cursor == 6


def test_at_the_bound_groups_of_equal_rewards_make_up_the_number():
    assign = AssignAdvantages(always_tied=[ORDER[at] for at in (0, 1, 3, 4, 5, 7)])
    step_groups = assign.draw(refill=2)
    assert assign.draws == [ORDER[:4], ORDER[4:7], [ORDER[7]]]
    assert names(step_groups.trained) == [ORDER[at] for at in (0, 1, 2, 6)] and step_groups.cursor == 8


def test_no_step_draws_more_than_there_is():
    assign = AssignAdvantages(num_tied=9)
    step_groups = assign.draw(refill=9, num_tasks=6)
    assert [len(each) for each in assign.draws] == [4, 2] and len(set(names(step_groups.sampled))) == 6
    assert names(step_groups.trained) == assign.draws[0]


def test_groups_that_failed_are_replaced_too_and_never_trained_on():
    assign = AssignAdvantages(failing=[ORDER[2]])
    step_groups = assign.draw(refill=2)
    assert assign.draws == [ORDER[:4], [ORDER[4]]]
    assert names(step_groups.trained) == names(step_groups.valid) == [*ORDER[:2], *ORDER[3:5]]
    assert names(AssignAdvantages(failing=ORDER[:3]).draw(refill=1).trained) == [ORDER[3]]
    with pytest.raises(RuntimeError, match="step 0: every group failed; reasons: lost"):
        AssignAdvantages(failing=ORDER).draw(refill=2)
