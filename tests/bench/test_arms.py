"""The report of `tests/bench/arms.py`: pairs by task, seeds of one task averaged first."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from env.store import TrajectoryStore
from tests.bench import arm, calibration_arms
from tests.bench.arm import SETTINGS, Arm
from tests.bench.arms import GROUPS, gains, table
from tests.bench.arms_plot import SMOOTH, ZOOM_METRICS, plot, read_curve
from tests.bench.arms_strip import actions_text, pick, strip
from tests.helpers.replay_samples import answer_text, box, episode, select_text, small_task

EXPLORES = ("fine_mark", "", "brief_event", "", "")


def results(jf: list[float]) -> dict[str, dict[str, Any]]:
    """Return the results of one policy in every setting."""
    rows = [
        {"family": "appearance", "explore": explore, "jf": value, "j_visible": value, "format": 1.0, "turns": 1}
        for explore, value in zip(EXPLORES, jf, strict=True)
    ]
    return {setting: {"sighted": {"rows": rows}, "blind": {"rows": rows}} for setting in SETTINGS}


EVALUATED = {
    "cold start": [results([0.1, 0.2, 0.3, 0.4, 0.5])],
    "GRPO": [results([0.3, 0.2, 0.3, 0.4, 0.5]), results([0.5, 0.2, 0.5, 0.4, 0.4])],
}


def test_a_gain_is_the_mean_over_tasks_of_the_mean_over_seeds() -> None:
    by_task = np.array([0.3, 0.0, 0.1, 0.0, -0.05])
    found = gains(EVALUATED, "GRPO")
    assert set(found) == {f"{setting}, {group}" for setting in ("greedy", "T=1") for group in GROUPS}
    assert found["greedy, all"] == pytest.approx((by_task.mean(), by_task.std(ddof=1) / 5**0.5))
    assert found["T=1, exploring pays"] == pytest.approx((0.2, 0.1))


def test_several_samples_of_a_task_are_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def evaluate(*command: str) -> None:
        asked.append(command)
        folder, seed = Path(command[command.index("--out") + 1]), int("seed=1" in command)
        rows = [{"task_id": "t", "explore": "", "family": "motion", "jf": 0.4 + 0.2 * seed, "j_visible": None}]
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps({"checkpoint": "c", "sighted": {"rows": rows}}))

    monkeypatch.setattr(arm, "run", evaluate)
    found = arm.evaluate_arm(tmp_path, Arm("cold start", tmp_path, samples=2), tmp_path, num_tasks=1)
    assert len(asked) == 3 and set(found) == {"greedy", "T=1"}
    expected = {"task_id": "t", "explore": "", "family": "motion", "jf": pytest.approx(0.5), "j_visible": None}
    assert found["T=1"]["sighted"]["rows"] == [expected]
    assert found["greedy"]["sighted"]["rows"][0]["jf"] == 0.4


def test_the_table_has_a_line_per_group_and_arm() -> None:
    control = {setting: results([0.0] * 5)[setting] for setting in ("greedy", "T=1")}
    lines = table(EVALUATED | {"control": [control]}).splitlines()
    assert len(lines) == 2 + len(GROUPS) * 3
    assert lines[3].startswith("| all (5) | GRPO | 37.0 ±4.4 | 37.0 ±4.4 | +7.0 ±6.2 | 37.0 ±4.4 | +7.0 ±6.2 | 100.0 ±")
    assert lines[2].split("|")[5].strip() == "", "the cold start is not compared with itself"
    assert lines[4].endswith("| - | - |"), "not evaluated without zooms"
    assert lines[6].startswith("| exploring pays (2) | GRPO | 40.0 ±")


def test_curves_are_means_over_runs_of_blocks_of_steps(tmp_path: Path) -> None:
    metric = next(iter(ZOOM_METRICS))
    for number in range(2):
        run = tmp_path / f"run-{number}"
        run.mkdir()
        rows = [{"step": step, **({metric: number} if step != 1 else {})} for step in range(2 * SMOOTH + 1)]
        (run / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    runs = [tmp_path / "run-0", tmp_path / "run-1"]
    assert read_curve(runs, metric).tolist() == [0.5, 0.5]  # the last step fills no block, step 1 has no such task
    assert np.isnan(read_curve(runs, "rollout/nothing")).all()
    plot({"GRPO": runs, "shuffled rewards": runs[:1]}, {"GRPO": gains(EVALUATED, "GRPO")}, tmp_path / "arms.png")
    pixels_HWC = np.array(Image.open(tmp_path / "arms.png"))
    assert pixels_HWC.shape[0] > 400 and pixels_HWC.std() > 10


def test_a_strip_shows_tasks_where_one_policy_zoomed_and_the_other_did_not(tmp_path: Path) -> None:
    plain = small_task(tmp_path / "video")
    tasks = [
        replace(plain, task_id=f"t/{at}", explore=explore)
        for at, explore in enumerate(("", "fine_mark", "fine_mark", "brief_event"))
    ]
    at_once, closer = [answer_text(10, 19, 12)], [select_text(5, 25, 12), answer_text(10, 19, 12)]
    texts = {"before": [at_once] * 4, "after": [closer, closer, closer, at_once]}
    masks = {idx: box(8, 8, 24, 36) for idx in range(40)}
    trajectories = {
        name: [episode(task, text, masks) for task, text in zip(tasks, of, strict=True)] for name, of in texts.items()
    }
    assert pick(*({item.task.task_id: item for item in items} for items in trajectories.values())) == ["t/1"]
    assert actions_text(trajectories["after"][1]) == "zooms to 5 to 25, frame 12, then\nanswers"
    for name, items in trajectories.items():
        TrajectoryStore(tmp_path / name / "trajectories").append(items)
        rows = [{"task_id": task.task_id, "jf": 0.5} for task in tasks]
        (tmp_path / name / "results.json").write_text(json.dumps({"sighted": {"rows": rows}}))
    strip(tmp_path / "before", tmp_path / "after", tmp_path / "strip.png")
    assert np.array(Image.open(tmp_path / "strip.png")).shape[:2] == (435, 1350)
    with pytest.raises(SystemExit, match="nothing to show"):
        strip(tmp_path / "before", tmp_path / "before", tmp_path / "none.png")


def test_calibration_forms_are_compared_with_the_cold_start_and_the_shipped_form_keeps_its_runs() -> None:
    assert [arm.name for arm in calibration_arms.arms("loglik", [0, 2], "loglik")] == ["grpo-0", "grpo-2"]
    other = calibration_arms.arms("iou", [1], "loglik")[0]
    assert (other.name, other.sets) == ("iou-1", ("seed=1", "grpo.calibration=iou"))
    lines = calibration_arms.table(EVALUATED | {"iou": EVALUATED["GRPO"]}).splitlines()
    assert lines[2] == "| cold start | 30.0 ±7.1 |  | 30.0 ±7.1 |  | 30.0 ±7.1 |  | 100.0 ±0.0 |"
    assert lines[4].startswith("| iou | 37.0 ±4.4 | +7.0 ±6.2 | 37.0 ±4.4 | +7.0 ±6.2 | 37.0 ±4.4 | +7.0 ±6.2 |")
