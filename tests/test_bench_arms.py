"""What the experiment of `tests/bench/arms.py` reports: pairs by task, seeds of one task averaged first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.bench.arms import GROUPS, SETTINGS, gains, table
from tests.bench.arms_plot import LOOKS, SMOOTH, plot, read_curve

EXPLORES = ("fine_mark", "", "brief_event", "", "")


def results(jf: list[float]) -> dict[str, dict[str, Any]]:
    """One policy in every setting."""
    rows = [
        {"family": "appearance", "explore": explore, "jf": value, "j_visible": value, "format": 1.0, "turns": 1}
        for explore, value in zip(EXPLORES, jf, strict=True)
    ]
    return {setting: {"sighted": {"rows": rows}, "blind": {"rows": rows}} for setting in SETTINGS}


JUDGED = {
    "cold start": [results([0.1, 0.2, 0.3, 0.4, 0.5])],
    "GRPO": [results([0.3, 0.2, 0.3, 0.4, 0.5]), results([0.5, 0.2, 0.5, 0.4, 0.4])],
}


def test_a_gain_is_the_mean_over_tasks_of_the_mean_over_seeds() -> None:
    by_task = np.array([0.3, 0.0, 0.1, 0.0, -0.05])
    found = gains(JUDGED, "GRPO")
    assert set(found) == {f"{setting}, {group}" for setting in ("greedy", "T=1") for group in GROUPS}
    assert found["greedy, all"] == pytest.approx((by_task.mean(), by_task.std(ddof=1) / 5**0.5))
    assert found["T=1, exploring pays"] == pytest.approx((0.2, 0.1))


def test_the_table_has_a_line_per_setting_group_and_arm() -> None:
    lines = table(JUDGED).splitlines()
    assert len(lines) == 2 + len(SETTINGS) * len(GROUPS) * len(JUDGED)
    control = {"greedy": results([0.0] * 5)["greedy"]}
    assert len(table(JUDGED | {"control": [control]}).splitlines()) == len(lines) + len(GROUPS)
    assert lines[3].startswith("| greedy | all (5) | GRPO | 37.0 ±") and lines[3].endswith("| +7.0 ±6.2 |")


def test_curves_are_means_over_runs_of_blocks_of_steps(tmp_path: Path) -> None:
    metric = next(iter(LOOKS))
    for number in range(2):
        run = tmp_path / f"run-{number}"
        run.mkdir()
        rows = [{"step": step, **({metric: number} if step != 1 else {})} for step in range(2 * SMOOTH + 1)]
        (run / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    runs = [tmp_path / "run-0", tmp_path / "run-1"]
    assert read_curve(runs, metric).tolist() == [0.5, 0.5]  # the last step fills no block, step 1 has no such task
    assert np.isnan(read_curve(runs, "rollout/nothing")).all()
    plot({"GRPO": runs, "shuffled rewards": runs[:1]}, {"GRPO": gains(JUDGED, "GRPO")}, tmp_path / "arms.png")
    pixels_HWC = np.array(Image.open(tmp_path / "arms.png"))
    assert pixels_HWC.shape[0] > 400 and pixels_HWC.std() > 10
