"""The metrics of one segmented trajectory, and what the video adds to them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from env.errors import DataError
from env.rle import encode
from env.types import Action, Answer, Interval, Malformed, Observation, StopReason, Task, Trajectory, Turn, VideoRef
from rl.evaluation.compare import compare, compare_table, write_comparison
from rl.evaluation.runner import over_blind, summarise
from rl.evaluation.statistics import slices_of
from rl.evaluation.trajectory_metrics import measure

VIDEO = VideoRef("/none", "v", ("0", "1", "2", "3"), 4, 20, 20)


def square(left: int) -> dict:
    mask_HW = np.zeros((20, 20), bool)
    mask_HW[4:14, left : left + 10] = True
    return encode(mask_HW)


def trajectory(decision: Answer | Malformed, masks: dict[int, dict]) -> Trajectory:
    task = Task("set/v/0", VIDEO, "it", (None, square(0), square(0), None), family="motion", explore="brief_event")
    stop = StopReason.ANSWERED if isinstance(decision, Answer) else StopReason.MALFORMED
    turn = Turn(Observation(("it",)), Action("so"), decision)
    return Trajectory("-1/set/v/0/0", task, -1, 0, [turn], stop, masks=masks)


def test_figures_of_an_answer():
    answer = Answer(Interval(0, 3), 2)
    figures = measure(trajectory(answer, {1: square(0), 2: square(5), 3: square(0)}))
    assert figures["j"] == pytest.approx((1 + 1 + 1 / 3 + 0) / 4)
    assert figures["j_visible"] == pytest.approx((1 + 1 / 3) / 2)
    assert figures["interval_iou"] == pytest.approx(2 / 3)
    assert (figures["key_hit"], figures["format"], figures["turns"]) == (1.0, 1.0, 1)


def test_a_turn_that_does_not_parse_scores_as_an_empty_tracklet():
    figures = measure(trajectory(Malformed("no_block", ""), {}))
    assert (figures["j"], figures["f"], figures["j_visible"]) == (0.5, 0.5, 0.0)
    assert (figures["interval_iou"], figures["key_hit"], figures["format"]) == (0.0, 0.0, 0.0)


def test_nothing_to_find_has_no_interval_or_key_frame():
    item = trajectory(Answer(Interval(0, 4), 0), {})
    item.task = replace(item.task, gold=(None,) * 4)
    figures = measure(item)
    assert figures["j"] == 1.0
    assert figures["j_visible"] is figures["interval_iou"] is figures["key_hit"] is None


def test_a_family_without_turns_states_no_interval_and_no_format():
    item = trajectory(Malformed("no_block", ""), {1: square(0), 2: square(0)})
    item.turns, item.stop_reason = [], StopReason.SINGLE_PASS
    figures = measure(item)
    assert (figures["jf"], figures["j_visible"]) == (1.0, 1.0)
    assert {figures[key] for key in ("interval_iou", "key_hit", "format", "turns", "tool_use")} == {None}
    item.stop_reason = StopReason.TOO_LONG  # a policy with turns that had none left
    figures = measure(item)
    assert (figures["interval_iou"], figures["key_hit"], figures["format"], figures["turns"]) == (0.0, 0.0, 1.0, 0)


def row(family: str, explore: str, j_visible: float | None, task_id: str = "") -> dict:
    names = ("jf", "j", "f", "interval_iou", "key_hit", "format", "turns", "tool_use")
    return {
        "task_id": task_id,
        "family": family,
        "explore": explore,
        "j_visible": j_visible,
        **dict.fromkeys(names, 1.0),
    }


def test_what_the_video_adds_is_paired_by_task_and_told_by_slice():
    sighted = [row("motion", "", 0.9), row("motion", "fine_mark", 0.5), row("no_target", "", None)]
    blind = [row("motion", "", 0.4), row("motion", "fine_mark", 0.2), row("no_target", "", None)]
    assert slices_of(sighted)["exploring pays"] == [1]
    gains = over_blind(sighted, blind, 200, seed=0)
    assert gains["all"] is not None and gains["exploring pays"] is not None
    assert gains["all"][0] == pytest.approx(0.4) and 0.3 <= gains["all"][1] <= gains["all"][2] <= 0.5
    assert gains["exploring pays"] == pytest.approx((0.3, 0.3, 0.3))
    assert gains["no_target"] is None
    assert summarise(sighted, 200, seed=0)["motion"]["n"] == 2


def write_results(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"sighted": {"rows": rows}}))
    return folder


def test_a_comparison_pairs_the_same_tasks_whatever_their_order(tmp_path: Path):
    before = [row("motion", "", 0.4, "a"), row("motion", "fine_mark", 0.2, "b"), row("no_target", "", None, "c")]
    after = [row("no_target", "", None, "c"), row("motion", "fine_mark", 0.5, "b"), row("motion", "", 0.5, "a")]
    folders = write_results(tmp_path / "before", before), write_results(tmp_path / "after", after)
    differences = compare(*folders, 200, seed=0)
    assert differences["motion"]["j_visible"][0] == pytest.approx(0.2)
    assert differences["exploring pays"]["j_visible"] == pytest.approx((0.3, 0.3, 0.3))
    assert differences["no_target"]["j_visible"] is None and differences["no_target"]["jf"] == (0.0, 0.0, 0.0)
    assert differences["all"]["n"] == 3
    write_comparison(differences, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["motion"]["n"] == 2
    assert (tmp_path / "out" / "compare.png").stat().st_size > 5000
    assert compare_table(differences, *folders).row_count == len(differences)


def test_evaluations_of_other_tasks_cannot_be_compared(tmp_path: Path):
    before = write_results(tmp_path / "before", [row("motion", "", 0.4, "a")])
    after = write_results(tmp_path / "after", [row("motion", "", 0.4, "b")])
    with pytest.raises(DataError, match=r"after/results\.json: expected the tasks of .*before, 2 differ: a"):
        compare(before, after, 10, seed=0)
    (before / "results.json").write_text("{}")
    with pytest.raises(DataError, match=r"before/results\.json\.sighted: the field is missing"):
        compare(before, after, 10, seed=0)
