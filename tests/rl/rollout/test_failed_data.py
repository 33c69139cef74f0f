"""GRPO with damaged data: the run goes on without it, ends with one sentence if it is too much, and tries it again."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from configs.schema import RunConfig
from cot_data.datasets import load_tasks
from cot_data.datasets.mixture import Mixture
from cot_data.faults import RAISE, Faults
from cot_data.tasks import Entry, Tasks
from env.errors import DataError
from env.store import TrajectoryStore
from env.types import VideoRef
from rl import grpo
from rl.rollout.dynamic_sampling import FailedStepError
from rl.rollout.task_stream import TaskStream
from tests.helpers.damaged_data import copied, cut_frame, spoil_masks, tasks_with_masks_of
from tests.helpers.pool_in_process import PoolInProcess
from tests.helpers.rl_parts import Micro, read_lines
from tests.rl.rollout.test_dynamic_sampling import NoFootage, ids, tasks

SETTINGS = (
    "grpo.steps=2",
    "grpo.tasks_per_step=3",
    "grpo.group_size=2",
    "grpo.save_every=1",
    "grpo.eval_every=1",
    "grpo.kl_coef=0",
    "eval.num_tasks=0",
    "sampler.kind=hf",
    "env.max_action_tokens=48",
    "env.max_seconds=3600",
)
pytestmark = pytest.mark.timeout(900)


@dataclass
class Run:
    config: RunConfig
    data: Path
    whole: Path

    @property
    def folder(self) -> Path:
        return Path(self.config.run_dir)

    def repair(self) -> None:
        for path in (self.whole / "JPEGImages").rglob("*.jpg"):
            shutil.copyfile(path, self.data / path.relative_to(self.whole))
        shutil.copyfile(self.whole / "mask_dict.json", self.data / "mask_dict.json")


@pytest.fixture
def run(micro: Micro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Run:
    monkeypatch.setattr(grpo, "RolloutPool", PoolInProcess)
    monkeypatch.setattr(grpo, "connect_ray", lambda config, has_gpu: None)
    data = copied(micro.data, tmp_path / "data")
    roots = (f"data.train_root={data}", f"data.eval_root={data}")
    more = getattr(request, "param", ())
    return Run(micro.config(tmp_path / "run", [*SETTINGS, *roots, *more]), data, micro.data)


@pytest.mark.parametrize("run", [("grpo.max_failed_share=0.9",)], indirect=True)
def test_training_goes_on_without_what_cannot_be_read(run: Run):
    cut_frame(run.data, 0, 0)
    spoilt = tasks_with_masks_of(run.data, spoil_masks(run.data, -1))
    grpo.train(run.config)
    rows = read_lines(run.folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1]
    stored = list(TrajectoryStore(run.folder / "trajectories").read())
    failed = [item for item in stored if item.has_failed]
    assert failed and all(".jpg" in item.error and not item.masks and item.scores is None for item in failed)
    assert not {item.task.task_id for item in stored} & spoilt, "a task without its masks is passed over"
    assert sum(row["rollout/failed"] for row in rows) == len(failed)
    assert all(item.scores for item in stored if not item.has_failed)
    broken = {item.task.task_id for item in stored if item.task.video == failed[0].task.video}
    assert all(row["eval/failed"] >= len(broken | spoilt) and "eval/jf/all" in row for row in rows)
    json.dumps(rows, allow_nan=False)


def test_too_much_of_it_ends_the_run_and_a_resumed_run_tries_it_again(run: Run):
    for video in (0, 1):
        cut_frame(run.data, video, 0)
    with pytest.raises(FailedStepError, match=r"step 0: every group failed; .*\.jpg.*; mend them and go on with --res"):
        grpo.train(run.config)
    pending = TrajectoryStore(run.folder / "pending" / "step-000000")
    assert len(list(pending.read())) == 6 and all(item.has_failed for item in pending.read())
    run.repair()
    grpo.train(run.config)  # no checkpoint was written yet, so it starts again
    assert all(item.scores for item in TrajectoryStore(run.folder / "trajectories").read())


def test_what_failed_in_a_later_step_is_tried_again_and_the_rest_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch):
    sample = grpo.RolloutPrefetcher._sample

    def damage_before_the_second_step(self: grpo.RolloutPrefetcher, step: int):
        if step == 1:
            for video in (0, 1):
                cut_frame(run.data, video, 0)
            self.pool.rollout.frames = type(self.pool.rollout.frames)()  # pyright: ignore[reportAttributeAccessIssue]
        return sample(self, step)

    monkeypatch.setattr(grpo.RolloutPrefetcher, "_sample", damage_before_the_second_step)
    with pytest.raises(FailedStepError, match="step 1: every group failed"):
        grpo.train(run.config)
    monkeypatch.undo()
    monkeypatch.setattr(grpo, "RolloutPool", PoolInProcess)
    monkeypatch.setattr(grpo, "connect_ray", lambda config, has_gpu: None)
    run.repair()
    first = [item.trajectory_id for item in TrajectoryStore(run.folder / "trajectories").read()]
    grpo.train(run.config, resume=True)
    stored = list(TrajectoryStore(run.folder / "trajectories").read())
    assert [item.trajectory_id for item in stored[: len(first)]] == first and len(stored) == 2 * len(first)
    assert all(item.scores for item in stored), "no folder had to be removed by hand"


# ---- the schedule ----


def stream(run: Run, per_step: int) -> tuple[TaskStream, Tasks]:
    found = load_tasks("mevis", run.data)
    return TaskStream(Mixture([found], [1.0]), per_step, 5), found


def test_the_next_task_takes_the_place_of_one_that_cannot_be_read(run: Run):
    whole, found = stream(run, 3)
    order = whole.take(len(found), 0).tasks
    spoilt = tasks_with_masks_of(run.data, spoil_masks(run.data, 0))
    damaged, _ = stream(run, 3)
    taken, cursor, unreadable = damaged.take(3, 0)
    readable = [task.task_id for task in order if task.task_id not in spoilt]
    assert ids(taken) == readable[:3] and cursor == ids(order).index(readable[2]) + 1
    assert {task.task_id for task in unreadable} == spoilt & set(ids(order[:cursor]))
    assert all("mask of frame" in task.reason for task in unreadable)


class GoneFootage(NoFootage):
    def ref(self, faults: Faults = RAISE) -> VideoRef:
        raise DataError("v", "is gone")


def test_where_nothing_can_be_read_the_search_ends():
    entries = [Entry(each.outline, GoneFootage(), None, "file") for each in tasks(9).entries]
    taken, cursor, unreadable = TaskStream(Mixture([Tasks(entries)], [1.0]), 2, 0).take(2, 0)
    assert taken == [] and len(unreadable) == cursor == 3, "one more than was asked for"
    small = Tasks([*entries[:1], *tasks(3).entries[1:]])
    taken, _, unreadable = TaskStream(Mixture([small], [1.0]), 3, 0).take(3, 0)
    assert {task.task_id for task in taken} == {"set/1", "set/2"} and len(unreadable) == 1, "all that there is"
