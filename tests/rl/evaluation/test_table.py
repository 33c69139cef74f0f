"""The terminal's table of an evaluation."""

from __future__ import annotations

from rl.evaluation.table import results_table
from rl.evaluation.trajectory_metrics import METRICS


def test_a_group_without_tasks_has_a_row_without_figures():
    """As where one task is evaluated, which either needs exploring or does not."""
    one = {"n": 1, **dict.fromkeys(METRICS, (1.0, 1.0, 1.0))}
    none = {"n": 0, **dict.fromkeys(METRICS)}
    results = {"checkpoint": "C", "num_tasks": 1, "sighted": {"summary": {"all": one, "exploring pays": none}}}
    table = results_table(results)
    last = [str(list(column.cells)[-1]) for column in table.columns]
    assert last == ["exploring pays", "0", *["-"] * (len(table.columns) - 2)]
    assert list(table.columns[-1].cells) == ["1.00", "-"]
