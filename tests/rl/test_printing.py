"""Names from outside in the tables and progress bars of commands: printed as they are, and never as commands."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import rl.runtime.progress
from configs.load import load_config
from env.types import StopReason, Task, Trajectory, VideoRef
from rl.benchmarks.scorer import benchmark_table
from rl.evaluation.compare import PAIRED, compare_table, plot
from rl.evaluation.table import results_table
from rl.predict import summary_line
from rl.report.collect import summary_table
from rl.report.metric_rows import Evaluated
from rl.report.page import RunReport
from rl.runtime.progress import progress_bar

EVIL = "\x1b[31m[bold]x[/nope]\x07"
PLAIN = "[bold]x[/nope]"
METRICS = ("jf", "j_visible", "interval_iou", "key_hit", "format", "turns")


def printed(*what: object) -> str:
    out = io.StringIO()
    Console(file=out, width=250, force_terminal=True).print(*what)
    return out.getvalue()


def check(text: str, count: int) -> None:
    assert text.count(PLAIN) == count and "\x1b[31m" not in text and "\x07" not in text


ROW = {"n": 3, **dict.fromkeys(METRICS)}


def test_a_table_of_results() -> None:
    results = {"checkpoint": EVIL, "num_tasks": 3, "sighted": {"summary": {"all": ROW, EVIL: ROW}}}
    check(printed(results_table(results)), 2)


def test_a_table_of_differences() -> None:
    row = {"n": 3, **dict.fromkeys(PAIRED)}
    check(printed(compare_table({"all": row, EVIL: row}, Path(EVIL), Path(EVIL))), 3)


@pytest.mark.parametrize("name", ["$\\bad{$", "$", "$x$ $y", EVIL])
def test_a_plot_of_differences(name: str, tmp_path: Path) -> None:
    row = {"n": 3, **dict.fromkeys(PAIRED), "jf": (0.1, 0.0, 0.2)}
    plot({"all": row, name: row}, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_tables_of_benchmarks() -> None:
    known = {"name": "mevis", "about": "a", "num_tasks": 1, "num_all": 1, "num_missing": 0, "num_missing_frames": 0}
    groups = {"overall": {"n": 1, "jf": 0.5}, EVIL: {"n": 1, "jf": 0.5}}
    check(printed(benchmark_table({**known, "groups": groups, "n_acc": None, "t_acc": None}, EVIL)), 2)
    check(printed(benchmark_table({**known, "submission": EVIL}, EVIL)), 2)


def test_a_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    make = rl.runtime.progress.Progress
    console = Console(file=out, width=200, force_terminal=True)
    monkeypatch.setattr(rl.runtime.progress, "Progress", lambda *columns: make(*columns, console=console))
    with progress_bar(EVIL, 1) as advance:
        advance()
    assert PLAIN in out.getvalue() and "\x1b[31m" not in out.getvalue()


def test_the_summary_of_a_prediction_and_of_a_report() -> None:
    task = Task("a/b/0", VideoRef("r", "p", (), 1, 8, 8), "it", ())
    trajectory = replace(Trajectory("x", task, -1, 0), stop_reason=StopReason.ERROR, error=EVIL)
    assert EVIL in summary_line(trajectory)  # the command prints it by `env.terminal.shown`
    stage = Evaluated(EVIL, "p.html", {"sighted": {"summary": {"all": ROW}}}, [])
    report = RunReport("t", "s", [stage], {}, {}, [], "PSS", {}, str(load_config("tiny").seed))
    check(printed(summary_table(report)), 1)
