"""The report: figures where they belong, stored text escaped, nothing fetched, alive in a real browser."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from env.frames import FrameCache
from env.types import Task, Trajectory
from env.viewer.page import write_page
from rl.report.charts import make_chart
from rl.report.mask_strips import overlay_tasks, replay_choice
from rl.report.metric_rows import Cell, Evaluated, change_rows, main_rows, slice_rows
from rl.report.page import RunReport, facts_of, render_report
from rl.report.training_curves import cold_start_charts, grpo_charts
from rl.runtime.failed_tasks import failure_summary
from rl.runtime.phases import PhaseCost
from tests.helpers.browser import open_page
from tests.helpers.replay_samples import ATTACK, answer_text, box, episode, select_text, small_task

METRICS = ("jf", "j", "f", "j_visible", "interval_iou", "key_hit", "format", "turns", "tool_use")


def results(tasks: list[Task], level: float, blind: float) -> dict[str, Any]:
    """As rl.evaluate writes them, every figure of a policy at one level; half a turn more for every later task."""
    rows = [
        {"task_id": task.task_id, "family": task.family, "explore": task.explore, "stop": "answered"}
        | dict.fromkeys(METRICS, level)
        | {"turns": 1 + at / 2}
        for at, task in enumerate(tasks)
    ]

    def group(value: float, count: int) -> dict[str, Any]:
        triples = {key: [value, value - 0.05, value + 0.05] for key in METRICS}
        return {"n": count, **triples, "turns": [1.5, 1.25, 1.75]}

    families = [*sorted({task.family for task in tasks}), "exploring pays", "exploring does not pay"]

    def summary(value: float) -> dict[str, Any]:
        return {"all": group(value, len(tasks))} | {name: group(value, 1) for name in families}

    provenance = {"commit": "abc", "cores": 2, "packages": {"torch": "2.13.0"}}
    sighted, shut = {"rows": rows, "summary": summary(level)}, {"rows": rows, "summary": summary(blind)}
    return {"num_tasks": len(tasks), "provenance": provenance, "sighted": sighted, "blind": shut}


def made_tasks(folder: Path) -> list[Task]:
    task = small_task(folder / "video")
    families = ("appearance", f"motion{ATTACK}", "appearance", "no_target", "motion")
    made = []
    for at, family in enumerate(families):
        explore = "fine_mark" if at == 2 else ""
        text = f"the box that number {at} means {ATTACK if at == 1 else ''}"
        gold = () if family == "no_target" else task.gold
        made.append(replace(task, task_id=f"t/{at}", expression=text, family=family, explore=explore, gold=gold))
    return made


def made_report(folder: Path) -> RunReport:
    tasks = made_tasks(folder)
    after = {idx: box(8, 8, 24, 36) for idx in range(8, 22)}
    malformed = [episode(task, [f"<think>{ATTACK}</think>[SEG]"], {}) for task in tasks]
    texts = [select_text(5, 25, 12), answer_text(10, 19, 12)]
    answered = [episode(task, texts, after) for task in tasks]
    levels = (("untrained", 0.1, 0.1, malformed), ("cold-started", 0.5, 0.2, answered), ("GRPO", 0.625, 0.25, answered))
    stages = [
        Evaluated(name, f"replay_{name}.html", results(tasks, level, blind), items)
        for name, level, blind, items in levels
    ]
    losses = [{"step": at, "loss/tokens": 3 / (at + 1), "loss/masks": 1.0, "loss/align": 0.1 * at} for at in range(40)]
    steps = [
        {"step": at, "reward/total/mean": at / 10, "reward/format/mean": 0.5, "stop/answered/share": 1.0}
        | {"policy/mismatch/mean": 1e-7 * (at + 1), "rollout/mismatch/max": 1e-5}
        for at in range(20)
    ]
    rewards = ["format", ATTACK]
    return RunReport(
        title=f"A run {ATTACK}",
        sentence=f"What was done. {ATTACK}",
        stages=stages,
        charts={
            "Cold start": cold_start_charts([("dialogue", losses)]),
            "GRPO": grpo_charts(steps, rewards, *stages[-2:]),
        },
        links={"Replay: untrained": "replay_untrained.html"},
        phases=[PhaseCost("Cold start", 90, 3 << 30), PhaseCost("GRPO", 330, 5 << 30)],
        memory_unit="PSS",
        facts=facts_of({"commit": "abc", "cores": 2, "packages": {"torch": ATTACK}}, 3),
        config_text=f"run_dir: {ATTACK}",
    )


def test_a_figure_stands_with_its_interval_and_its_blind_baseline(tmp_path):
    stages = made_report(tmp_path).stages
    rows = dict(main_rows(stages))
    assert rows["cold-started"][0] == Cell("50.0", "[45.0, 55.0]", "20.0 [15.0, 25.0]")
    assert rows["GRPO"][-1] == Cell("1.50", "[1.25, 1.75]")
    assert rows["untrained"][2] == Cell("10.0", "[5.0, 15.0]")  # interval IoU: no blind column


def test_a_measure_that_never_applies_is_a_dash(tmp_path):
    stages = made_report(tmp_path).stages
    stages[0].results["sighted"]["summary"]["all"]["jf"] = None
    del stages[0].results["blind"]
    assert main_rows(stages)[0][1][0] == Cell("-", "", "-")


def test_failures_are_told_and_not_paired(tmp_path):
    report = made_report(tmp_path)
    before, after = report.stages[0].results["sighted"], report.stages[1].results["sighted"]
    before["rows"][0] |= {"jf": 0.0, "stop": "error"}
    lost = {f"t/{at}": f"lost {ATTACK}" for at in (0, 1)}
    before["failed"] = failure_summary(lost, 5, "empty")
    del after["rows"][3]
    after["failed"] = failure_summary({"t/3": "too slow"}, 5, "exclude")
    (_, cells), _ = change_rows(report.stages)
    assert cells[0] == Cell("+40.0", "[+40.0, +40.0]"), "over the three tasks that both answered"
    failed = report.stages[2].trajectories[0]
    failed.fail(f"the disk {ATTACK}")
    page = render_report(report, FrameCache())
    assert "untrained: 2 tasks failed and are counted as empty masks: lost" in page
    assert "cold-started: 1 tasks failed and are left out of the means: too slow (1)" in page
    assert "failed: the disk" in page and ATTACK not in page
    assert "GRPO: " not in page.split("<h3>By family")[0].split("</table>")[-1]


def test_changes_are_paired_by_task(tmp_path):
    stages = made_report(tmp_path).stages
    stages[0].results["sighted"]["rows"].reverse()  # the order of rows does not matter
    stages[1].results["sighted"]["rows"][0]["jf"] = None  # and a task without a figure is left out
    (first, cells), (second, later) = change_rows(stages)
    assert first == "cold-started \N{MINUS SIGN} untrained"
    assert cells[0] == Cell("+40.0", "[+40.0, +40.0]")
    assert cells[-1] == Cell("+0.00", "[+0.00, +0.00]")
    assert second == "GRPO \N{MINUS SIGN} cold-started"
    assert later[0] == Cell("+12.5", "[+12.5, +12.5]")


def test_families_come_before_whether_exploring_pays(tmp_path):
    names = [name for name, _, _ in slice_rows(made_report(tmp_path).stages)]
    assert names[-2:] == ["exploring does not pay", "exploring pays"]
    assert names[:2] == ["appearance", "motion"]


def test_overlays_are_the_first_of_each_kind(tmp_path):
    tasks = made_tasks(tmp_path)
    assert [task.task_id for task in overlay_tasks(tasks)] == ["t/0", "t/1", "t/3", "t/4", "t/2"]


def test_a_replay_page_holds_the_overlays_in_file_order(tmp_path):
    tasks = [replace(made_tasks(tmp_path)[0], task_id=f"t/{at}") for at in range(30)]
    tasks[25] = replace(tasks[25], family="temporal")
    items = [Trajectory(f"-1/{task.task_id}/0", task, -1, 0) for task in tasks]
    assert [item.task.task_id for item in replay_choice(items)] == [f"t/{at}" for at in (*range(20), 25)]


def test_a_chart_places_its_points_between_its_ticks():
    records = [{"step": 0, "a": 1.0}, {"step": 10, "a": 3.0}, {"step": 20, "b": 9.0}, {"step": 20, "a": float("nan")}]
    chart = make_chart("a", records, {"line": "a", "absent": "c"})
    assert chart is not None
    assert [line.name for line in chart.lines] == ["line"]
    assert chart.lines[0].dots == ((46, 176), (408, 10))
    assert chart.lines[0].last == 3
    assert [tick.label for tick in chart.y_ticks] == ["1", "1.5", "2", "2.5", "3"]
    assert [tick.label for tick in chart.x_ticks] == ["0", "5", "10"]
    assert make_chart("none", records, {"absent": "c"}) is None


def test_the_held_out_curve_runs_from_evaluation_to_evaluation(tmp_path):
    before, after = made_report(tmp_path).stages[-2:]
    records = [{"step": 0}, {"step": 1, "eval/jf/all": 0.4}, {"step": 2}]
    (chart,) = grpo_charts(records, [], before, after)
    (line,) = [line for line in chart.lines if line.name == "all"]
    xs, ys = zip(*line.dots, strict=True)
    assert xs[0] < xs[1] < xs[2]
    assert xs[2] - xs[1] == pytest.approx((xs[1] - xs[0]) / 2, abs=0.2)  # steps -1, 1 and 2
    assert ys[2] < ys[0] < ys[1]  # 0.625, 0.5 and 0.4, counted from above
    assert line.last == 0.625


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5, 1e-12, 1e9])
def test_a_constant_line_is_drawn(value: float):
    chart = make_chart("flat", [{"step": 0, "a": value}], {"a": "a"})
    assert chart is not None
    assert len(chart.y_ticks) >= 2
    assert all(10 <= y <= 176 for _, y in chart.lines[0].dots)


def test_a_log_chart_leaves_out_what_has_no_logarithm():
    chart = make_chart("log", [{"step": at, "a": 10.0**-at if at else 0.0} for at in range(4)], {"a": "a"}, True)
    assert chart is not None
    assert len(chart.lines[0].dots) == 3
    assert [tick.label for tick in chart.y_ticks] == ["1e-3", "1e-2", "1e-1"]
    assert chart.lines[0].last == pytest.approx(1e-3)


def test_no_stored_text_becomes_markup_and_nothing_is_fetched(tmp_path):
    html = render_report(made_report(tmp_path), FrameCache())
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "http" not in re.sub(r'http-equiv="Content', "", html)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'")
    assert "unsafe" not in policy[1]


def test_a_report_without_a_stage_or_a_record_is_a_page(tmp_path):
    empty = replace(made_report(tmp_path), stages=[], charts={"GRPO": []}, phases=[], links={})
    assert "No records." in render_report(empty, FrameCache())


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_in_a_browser(tmp_path, dark: bool):
    path = tmp_path / "report.html"
    write_page(path, render_report(made_report(tmp_path), FrameCache()))
    with open_page(path, dark=dark) as opened:
        page = opened.page
        page.screenshot(path=tmp_path / f"report_{'dark' if dark else 'light'}.png", full_page=True)
        assert opened.errors == []
        assert opened.requests == []
        assert page.evaluate("window.hacked") is None
        row = page.locator("#main tbody tr", has_text="cold-started").first.inner_text().split()
        assert row[:4] == ["cold-started", "50.0", "[45.0,", "55.0]"]
        assert page.locator("#groups tbody tr").count() == 6
        assert page.locator("section.task").count() == 5
        first = page.locator("section.task").first
        assert first.locator("img").count() == 10  # the untrained policy predicted nothing
        assert first.locator("a").last.get_attribute("href") == "replay_GRPO.html#0"
        assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
        assert page.locator(".chart").count() == 7
        assert page.locator("#phases tbody tr").last.inner_text().split() == ["all", "7.0", "min", "5.00", "GiB"]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert ATTACK in page.locator("h1").inner_text()
