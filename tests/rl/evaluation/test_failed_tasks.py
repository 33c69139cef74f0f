"""A task that fails is never scored as an answer: it is counted apart, told with its reason, and tried again."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.schema import RunConfig
from cot_data.datasets import load_tasks
from cot_data.tasks import Tasks
from cot_data.traces.dialogue import to_trajectory
from cot_data.traces.write import write_trace
from env.errors import DataError
from env.frames import FrameCache, FrameCaches
from env.store import TrajectoryStore
from env.types import StopReason, Task, Trajectory
from policy.videoseg.checkpoint import load_policy
from policy.videoseg.tracking import with_masks
from rl import evaluate
from rl.benchmarks.scorer import TrajectoryPredictions, benchmark_table, score_benchmark
from rl.evaluation.compare import compare
from rl.evaluation.runner import measure_tasks, segment_tasks
from rl.evaluation.table import results_table
from rl.evaluation.trajectory_metrics import measure
from rl.evaluation.worker import segment_each
from rl.rollout.request import RolloutRequest
from rl.rollout.runner import OneByOneRunner
from rl.runtime.failed_tasks import FailedTasksError, require_answers
from tests.helpers.damaged_data import copied, cut_frame, frame_only_tracked, spoil_masks, tasks_with_masks_of
from tests.helpers.rl_parts import Micro

pytestmark = pytest.mark.timeout(900)
SETTINGS = ("sampler.kind=hf", "env.max_action_tokens=48", "eval.blind=false", "eval.num_bootstrap=20")


@pytest.fixture
def config(micro: Micro, tmp_path: Path) -> RunConfig:
    return micro.config(tmp_path, SETTINGS)


@pytest.fixture(scope="module")
def whole(micro: Micro, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Return the rows of an evaluation without any damage, by task id."""
    folder = tmp_path_factory.mktemp("whole")
    config = micro.config(folder, SETTINGS)
    stores = segment_tasks(config, micro.policy, micro.tasks(), folder / "out", ["sighted"])
    rows = measure_tasks(config, stores, micro.tasks())["sighted"]["rows"]
    return {row["task_id"]: row for row in rows}


def run(monkeypatch: pytest.MonkeyPatch, micro: Micro, data: Path, out: Path, *more: str) -> None:
    sets = [*micro.overrides(out), *SETTINGS, f"data.eval_root={data}", "eval.num_tasks=4", *more]
    words = ["--config", "smoke", "--checkpoint", str(micro.policy), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["evaluate", *words, *(word for text in sets for word in ("--set", text))])
    evaluate.main()


def test_an_evaluation_in_which_every_episode_fails_has_no_figures_and_a_bad_exit_status(
    micro: Micro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(SystemExit, match=r"error: sighted: 4 tasks failed, .* env\.max_seconds \(0\.001\)"):
        run(monkeypatch, micro, micro.data, tmp_path / "out", "env.max_seconds=0.001")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    failed = results["sighted"]["failed"]
    assert (failed["rule"], failed["n"], failed["share"]) == ("exclude", 4, 1.0)
    assert sum(failed["reasons"].values()) == len(failed["tasks"]) == 4
    assert all(reason.startswith("took longer than env.max_seconds (0.001)") for reason in failed["reasons"])
    assert results["sighted"]["rows"] == [] and results["sighted"]["summary"]["all"]["jf"] is None
    assert "4 tasks failed and are left out of the means" in (tmp_path / "out" / "table.txt").read_text()
    stored = list(TrajectoryStore(tmp_path / "out" / "trajectories").read())
    assert len(stored) == 4 and all(item.has_failed and not item.masks for item in stored)


def test_a_decision_before_the_failure_gets_no_masks(micro: Micro, config: RunConfig):
    frames, policy, env = FrameCaches(FrameCache(), FrameCache()), load_policy(micro.policy), config.env
    written = [
        to_trajectory(write_trace(task, env, np.random.default_rng(0), env.prompt), task, env) for task in micro.tasks()
    ]
    for item in with_masks(policy, written, frames):
        item.stop_reason = StopReason.ANSWERED
        assert item.masks, "an episode with an answer"
        before = measure(item)
        item.stop_reason, item.error = StopReason.ERROR, "the worker was lost"
        after = measure(item)
        assert after["jf"] == measure(replace(item, masks={}))["jf"] and after["stop"] == "error"
        assert before["format"] is not None and after["format"] is after["turns"] is None
        item.fail("the worker was lost")
        assert item.turns and not item.masks
        assert list(with_masks(policy, [item], frames)) == [item] and not item.masks


def test_counted_as_empty_they_are_empty_and_say_nothing_of_the_format(
    micro: Micro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    more = ("env.max_seconds=0.001", "eval.failed=empty", "eval.max_failed_share=1")
    run(monkeypatch, micro, micro.data, tmp_path / "out", *more)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    for row in results["sighted"]["rows"]:
        assert row["stop"] == "error" and row["format"] is row["turns"] is row["tool_use"] is None
        assert row["j_visible"] in (0.0, None) and row["key_hit"] in (0.0, None)
    assert "counted as empty masks" in (tmp_path / "out" / "table.txt").read_text()


def test_damaged_files_fail_the_tasks_that_need_them_and_repaired_ones_are_evaluated(
    micro: Micro, config: RunConfig, whole: dict[str, dict], tmp_path: Path
):
    data = copied(micro.data, tmp_path / "data")
    tasks = load_tasks("mevis", data)
    of_first = {each.task_id for each in tasks if each.video == tasks[0].video}
    num_frames = tasks[0].video.num_frames
    broken = cut_frame(data, 0, frame_only_tracked(num_frames))
    spoilt = spoil_masks(data, len(tasks) - 1)
    unreadable = tasks_with_masks_of(data, spoilt)
    assert unreadable and of_first and not unreadable & of_first

    def evaluated() -> dict:
        tasks = load_tasks("mevis", data)
        stores = segment_tasks(config, micro.policy, tasks, tmp_path / "out", ["sighted"])
        return measure_tasks(config, stores, tasks)["sighted"]

    found = evaluated()
    kept = {row["task_id"]: row for row in found["rows"]}
    assert set(kept) == set(whole) - set(found["failed"]["tasks"])
    assert all(row == whole[task_id] for task_id, row in kept.items()), "the others are as without the damage"
    reasons = found["failed"]["tasks"]
    assert unreadable <= set(reasons) <= unreadable | of_first
    assert all("zz" in reasons[each] or "counts" in reasons[each] for each in unreadable)
    assert all(broken in reasons[each] for each in set(reasons) & of_first)
    assert set(reasons) & of_first == {each for each in of_first if whole[each]["stop"] in ("answered", "max_turns")}
    with pytest.raises(FailedTasksError, match=rf"sighted: {len(reasons)} tasks failed"):
        require_answers({"sighted": found}, 0.05)
    again = evaluated()
    assert again == found, "a restart does not stop there"

    for path in (data / "JPEGImages").rglob("*.jpg"):
        path.write_bytes((micro.data / path.relative_to(data)).read_bytes())
    (data / "mask_dict.json").write_text((micro.data / "mask_dict.json").read_text())
    repaired = evaluated()
    assert repaired["failed"]["n"] == 0 and {row["task_id"]: row for row in repaired["rows"]} == whole
    meta = data / "meta_expressions.json"
    meta.write_text(meta.read_text().replace('"exp":"', '"exp":"not ', 1))
    with pytest.raises(DataError, match=r"belongs to an evaluation with other settings: .*tasks"):
        evaluated()


def test_lost_data_does_not_refuse_the_evaluation_that_read_it(
    micro: Micro, config: RunConfig, whole: dict[str, dict], tmp_path: Path
):
    data = copied(micro.data, tmp_path / "data")
    tasks = load_tasks("mevis", data)[:3]
    segment_tasks(config, micro.policy, tasks, tmp_path / "out", ["sighted"])
    spoil_masks(data, 1)
    tasks = load_tasks("mevis", data)[:3]
    stores = segment_tasks(config, micro.policy, tasks, tmp_path / "out", ["sighted"])
    found = measure_tasks(config, stores, tasks)["sighted"]
    assert found["failed"]["n"] == 0 and [row["task_id"] for row in found["rows"]] == list(whole)[:3]


# ---- benchmarks and comparisons ----


def answers(tasks: Tasks, failing: set[str]) -> list[Trajectory]:
    """Return the gold masks as answers, and an error after a whole answer for the tasks that fail."""
    items = []
    for task in tasks:
        masks = {at: rle for at, rle in enumerate(task.gold) if rle}
        item = Trajectory(f"-1/{task.task_id}/0", task, -1, 0, [], StopReason.ANSWERED, masks=masks)
        if task.task_id in failing:
            item.stop_reason, item.error = StopReason.ERROR, "the worker was lost"
        items.append(item)
    return items


def test_a_benchmark_counts_a_failure_as_empty_and_leaves_out_what_has_no_gold(micro: Micro, tmp_path: Path):
    data = copied(micro.data, tmp_path / "data")
    tasks = load_tasks("mevis", data)
    failing = next(each for each in tasks if any(each.gold))
    visible = failing.task_id
    given = TrajectoryPredictions(iter(answers(tasks, {visible})))
    spoilt = spoil_masks(data, len(tasks) - 1)
    found = score_benchmark("mevis", load_tasks("mevis", data), 0, given, tmp_path)
    unreadable = tasks_with_masks_of(data, spoilt)
    rows = {row["task_id"]: row for row in found["rows"]}
    assert set(rows) == {each.task_id for each in tasks} - unreadable
    absent = failing.gold.count(None) / len(failing.gold)
    assert rows[visible]["j"] == pytest.approx(absent) and rows[visible]["error"] == "the worker was lost"
    assert all(row["j"] == 1 for task_id, row in rows.items() if task_id != visible)
    assert found["failed"]["n"] == 1 + len(unreadable) and found["num_unreadable"] == len(unreadable)
    assert found["num_missing"] == sum(not each.masks and each.task.task_id in rows for each in answers(tasks, set()))
    told = "\n".join(map(str, benchmark_table(found, "it").renderables))
    assert "the worker was lost (1)" in told and "cannot be read and are left out" in told


def written(folder: Path, rows: dict[str, float], failed: dict[str, str], rule: str = "exclude") -> Path:
    """Write an evaluation of which some tasks failed; a row of those too where they count as empty."""
    names = ("j_visible", "interval_iou", "key_hit", "format", "turns")
    made = [
        {"task_id": at, "family": "f", "explore": "", "stop": "answered", "jf": jf, **dict.fromkeys(names, 1.0)}
        for at, jf in rows.items()
    ]
    if rule == "empty":
        made += [{**made[0], "task_id": at, "jf": 0.0, "stop": "error"} for at in failed]
    folder.mkdir()
    summary = {"rule": rule, "n": len(failed), "share": 0.5, "reasons": {"lost": 1}, "tasks": failed}
    (folder / "results.json").write_text(json.dumps({"sighted": {"rows": made, "failed": summary}}))
    return folder


@pytest.mark.parametrize("rule", ["exclude", "empty"])
def test_only_tasks_that_both_answered_are_compared(tmp_path: Path, rule: str):
    first = written(tmp_path / "a", {"a": 0.5, "b": 0.5}, {"c": "lost", "d": "lost"}, rule)
    second = written(tmp_path / "b", {"a": 0.75, "c": 0.9, "d": 0.1}, {"b": "lost"}, rule)
    found = compare(first, second, 50, 0)["all"]
    assert (found["n"], found["left_out"]) == (1, 3)
    assert found["jf"] == pytest.approx((0.25, 0.25, 0.25))


def test_nothing_is_compared_where_no_task_was_answered_by_both(tmp_path: Path):
    first = written(tmp_path / "a", {"a": 0.5}, {"b": "lost"})
    second = written(tmp_path / "b", {"b": 0.5}, {"a": "lost"})
    found = compare(first, second, 50, 0)["all"]
    assert (found["n"], found["left_out"], found["jf"]) == (0, 2, None)


def test_the_table_of_an_older_evaluation_tells_no_failures(config: RunConfig):
    summary = {"all": {"n": 0} | dict.fromkeys(("jf", "j_visible", "interval_iou", "key_hit", "format", "turns"))}
    table = results_table({"checkpoint": "c", "num_tasks": 0, "sighted": {"summary": summary}})
    assert table.caption is None
    assert replace(config.eval).failed == "exclude"


class Fragile:
    """A segmenter of a family without turns, which cannot read some videos and segments several tasks at once."""

    def __init__(self, broken: set[str]):
        self.broken = broken
        self.calls = 0
        self.frames = FrameCaches(FrameCache(), FrameCache())

    def segment(self, tasks: Sequence[Task], temperature: float, seed: int) -> Iterator[Trajectory]:
        self.calls += 1
        for task in tasks:
            if task.task_id in self.broken:
                raise DataError(task.video.path, "cannot be decoded")
            yield Trajectory(f"-1/{task.task_id}/0", task, -1, 0, [], StopReason.SINGLE_PASS)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("broken", [(), (0,), (1, 3), (0, 1, 2, 3)])
def test_a_family_without_turns_loses_only_the_tasks_that_it_cannot_read(micro: Micro, broken: tuple[int, ...]):
    tasks = micro.tasks()[:4]
    segmenter = Fragile({tasks[at].task_id for at in broken})
    found = list(segment_each(segmenter, tasks, 0.0, 0))
    assert [item.task for item in found] == tasks
    assert [at for at, item in enumerate(found) if item.has_failed] == list(broken)
    assert all(item.error.endswith("cannot be decoded") for item in found if item.has_failed)
    assert segmenter.calls == 1 or broken, "at once as long as all can be read"
    runner = OneByOneRunner(segmenter)
    for task in tasks:
        runner.begin(RolloutRequest(task, -1, 0, 0, 0.0))
    alone = [item for _ in tasks for item in runner.step()]
    assert [item.has_failed for item in alone] == [item.has_failed for item in found] and not runner.busy
