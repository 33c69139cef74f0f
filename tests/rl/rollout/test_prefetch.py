"""Steps are played when they are asked for, or one ahead; what has been played is never played again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from configs.load import ConfigError, load_config
from configs.schema import RunConfig
from env.types import StopReason, Task, Trajectory
from rl.rollout.prefetch import RolloutPrefetcher
from rl.rollout.request import RolloutRequest
from rl.runtime.threads import SharedCores
from tests.helpers.stand_in import group


class Stream:
    """Tasks t0, t1, .. in order."""

    num_tasks = 100

    def take(self, count: int, cursor: int, without: Collection[str]) -> tuple[list[Task], int]:
        return [group(f"t{at}")[0].task for at in range(cursor, cursor + count)], cursor + count


class Workers:
    """Answers everything at once, but of step 1 nothing before `released` is set; notes what was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.released = Event()
        self.released.set()
        self.error: Exception | None = None

    def run(self, requests: Sequence[RolloutRequest]) -> Iterator[Trajectory]:
        self.asked.append([item.trajectory_id for item in requests])
        if self.error:
            raise self.error
        for item in requests:
            assert item.step != 1 or self.released.wait(30)
            yield Trajectory(item.trajectory_id, item.task, item.step, item.sibling, stop_reason=StopReason.ANSWERED)


def settings(ahead: int) -> RunConfig:
    config = load_config("smoke", [])
    grpo = replace(config.grpo, steps=3, tasks_per_step=2, group_size=2, max_oversampling=1, rollout_ahead=ahead)
    return replace(config, grpo=grpo)


def make(folder: Path, ahead: int) -> tuple[RolloutPrefetcher, Workers]:
    workers = Workers()
    score_without_update = pytest.fail
    return RolloutPrefetcher(settings(ahead), workers, folder, Stream(), 0, score_without_update), workers  # pyright: ignore[reportArgumentType]


def names(step: int) -> list[str]:
    return [f"{step}/t{task}/{sibling}" for task in (2 * step, 2 * step + 1) for sibling in (0, 1)]


def test_on_policy_nothing_is_played_before_it_is_asked_for(tmp_path: Path):
    rollouts, workers = make(tmp_path, ahead=0)
    for step in range(3):
        step_groups = rollouts.take(step)
        assert [item.trajectory_id for each in step_groups.trained for item in each] == names(step)
        rollouts.wait()
        assert workers.asked == [names(done) for done in range(step + 1)]


def test_ahead_the_next_step_is_begun_when_one_is_taken_and_no_further(tmp_path: Path):
    rollouts, workers = make(tmp_path, ahead=1)
    for step in range(3):
        step_groups = rollouts.take(step)
        assert [item.trajectory_id for each in step_groups.trained for item in each] == names(step)
        assert step_groups.cursor == 2 * step + 2
        rollouts.wait()
        assert workers.asked == [names(done) for done in range(min(step + 2, 3))]


def test_a_step_is_taken_while_the_next_one_is_still_being_played(tmp_path: Path):
    rollouts, workers = make(tmp_path, ahead=1)
    workers.released.clear()
    assert rollouts.take(0).cursor == 2
    assert rollouts.playing
    workers.released.set()
    assert rollouts.take(1).cursor == 4
    rollouts.wait()
    assert not rollouts.playing


def test_the_learner_leaves_a_core_to_each_worker_while_they_play(monkeypatch: pytest.MonkeyPatch):
    # Not torch's own: vLLM switches it off in a process that has had an engine, as those of tests may.
    taken: list[int] = []
    monkeypatch.setattr("rl.runtime.threads.torch.get_num_threads", lambda: 4)
    monkeypatch.setattr("rl.runtime.threads.torch.set_num_threads", taken.append)
    for workers, left in ((1, 3), (9, 1), (0, 4)):
        cores = SharedCores(workers)
        for playing in (True, False, True):
            cores.set_threads(playing)
        assert taken[-3:] == [left, 4, left]


def test_what_goes_wrong_ahead_is_raised_where_it_is_taken(tmp_path: Path):
    rollouts, workers = make(tmp_path, ahead=1)
    rollouts.take(0)
    rollouts.wait()
    workers.error = OSError("no space left on device")
    rollouts.take(1)
    rollouts.wait()
    with pytest.raises(OSError, match="no space left"):
        rollouts.take(2)


def test_what_is_pending_is_not_played_again_and_what_is_learnt_from_is_forgotten(tmp_path: Path):
    first, _ = make(tmp_path, ahead=1)
    first.take(0)
    first.wait()
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["step-000000", "step-000001"]
    resumed, workers = make(tmp_path, ahead=1)
    resumed.take(0)
    resumed.take(1)
    resumed.wait()
    assert workers.asked == [[], [], names(2)]
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["step-000001", "step-000002"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("grpo.truncate_weight=0", "expected grpo.truncate_weight above 0"),
        ("grpo.max_oversampling=2", "expected grpo.max_oversampling 1"),
        ("grpo.rollout_ahead=2", "expected 0 to 1, got 2"),
    ],
)
def test_what_cannot_go_with_it_is_refused(text: str, problem: str):
    with pytest.raises(ConfigError, match=problem):
        load_config("smoke", ["grpo.rollout_ahead=1", text])
