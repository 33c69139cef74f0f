"""Steps are rolled out when they are taken, or one ahead; no finished episode is run again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from configs.load import ConfigError, load_config
from configs.schema import RunConfig
from env.types import StopReason, Trajectory
from rl.rollout.prefetch import RolloutPrefetcher
from rl.rollout.request import RolloutRequest
from rl.rollout.task_stream import Taken
from rl.runtime.threads import SharedCores
from tests.helpers.stand_in import group


class Stream:
    """Tasks t0, t1, ... in order."""

    num_tasks = 100

    def take(self, count: int, cursor: int, without: Collection[str]) -> Taken:
        return Taken([group(f"t{at}")[0].task for at in range(cursor, cursor + count)], cursor + count, [])


class Workers:
    """Finishes every request at once, those of step 1 only after `released` is set; records the requests."""

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


def settings(folder: Path, ahead: int) -> RunConfig:
    config = load_config("smoke", [])
    grpo = replace(config.grpo, steps=3, tasks_per_step=2, group_size=2, max_oversampling=1, rollout_ahead=ahead)
    return replace(config, grpo=grpo, run_dir=str(folder))


def make(folder: Path, ahead: int) -> tuple[RolloutPrefetcher, Workers]:
    workers = Workers()
    score_without_update = pytest.fail
    return RolloutPrefetcher(settings(folder, ahead), workers, Stream(), 0, score_without_update), workers  # pyright: ignore[reportArgumentType]


def names(step: int) -> list[str]:
    return [f"{step}/t{task}/{sibling}" for task in (2 * step, 2 * step + 1) for sibling in (0, 1)]


def test_on_policy_no_step_runs_before_it_is_taken(tmp_path: Path):
    rollouts, workers = make(tmp_path, ahead=0)
    for step in range(3):
        step_groups = rollouts.take(step)
        assert [item.trajectory_id for each in step_groups.trained for item in each] == names(step)
        rollouts.wait()
        assert workers.asked == [names(done) for done in range(step + 1)]


def test_ahead_one_further_step_starts_when_a_step_is_taken(tmp_path: Path):
    rollouts, workers = make(tmp_path, ahead=1)
    for step in range(3):
        step_groups = rollouts.take(step)
        assert [item.trajectory_id for each in step_groups.trained for item in each] == names(step)
        assert step_groups.cursor == 2 * step + 2
        rollouts.wait()
        assert workers.asked == [names(done) for done in range(min(step + 2, 3))]


def test_a_step_is_taken_while_the_next_one_is_still_running(tmp_path: Path):
    rollouts, workers = make(tmp_path, ahead=1)
    workers.released.clear()
    assert rollouts.take(0).cursor == 2
    assert rollouts.is_running
    workers.released.set()
    assert rollouts.take(1).cursor == 4
    rollouts.wait()
    assert not rollouts.is_running


def test_the_learner_leaves_a_core_to_each_worker_while_they_run(monkeypatch: pytest.MonkeyPatch):
    # Torch's own functions are replaced: vLLM disables them in a process that has had an engine, as here.
    taken: list[int] = []
    monkeypatch.setattr("rl.runtime.threads.torch.get_num_threads", lambda: 4)
    monkeypatch.setattr("rl.runtime.threads.torch.set_num_threads", taken.append)
    for workers, left in ((1, 3), (9, 1), (0, 4)):
        cores = SharedCores(workers)
        for is_running in (True, False, True):
            cores.set_threads(is_running)
        assert taken[-3:] == [left, 4, left]


def test_an_error_of_a_step_ahead_is_raised_when_it_is_taken(tmp_path: Path):
    rollouts, workers = make(tmp_path, ahead=1)
    rollouts.take(0)
    rollouts.wait()
    workers.error = OSError("no space left on device")
    rollouts.take(1)
    rollouts.wait()
    with pytest.raises(OSError, match="no space left"):
        rollouts.take(2)


def test_pending_episodes_are_not_run_again_and_trained_ones_are_removed(tmp_path: Path):
    first, _ = make(tmp_path, ahead=1)
    first.take(0)
    first.wait()
    assert sorted(folder.name for folder in (tmp_path / "pending").iterdir()) == ["step-000000", "step-000001"]
    resumed, workers = make(tmp_path, ahead=1)
    resumed.take(0)
    resumed.take(1)
    resumed.wait()
    assert workers.asked == [[], [], names(2)]
    assert sorted(folder.name for folder in (tmp_path / "pending").iterdir()) == ["step-000001", "step-000002"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("grpo.truncate_weight=0", "expected grpo.truncate_weight above 0"),
        ("grpo.max_oversampling=2", "expected grpo.max_oversampling 1"),
        ("grpo.rollout_ahead=2", "expected 0 to 1, got 2"),
    ],
)
def test_settings_that_exclude_rollout_ahead_are_refused(text: str, problem: str):
    with pytest.raises(ConfigError, match=problem):
        load_config("smoke", ["grpo.rollout_ahead=1", text])
