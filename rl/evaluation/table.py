"""The table of a checkpoint's figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table


def results_table(results: dict[str, Any]) -> Table:
    """A table of percent figures with half-widths of the 95 % interval, the blind baseline in its own column."""
    title = f"{results['checkpoint']} ({results['num_tasks']} tasks)"
    table = Table(title=title, box=SIMPLE_HEAD, collapse_padding=True)
    for column in (
        "group",
        "n",
        "J&F",
        "J&F blind",
        "J visible",
        "J visible blind",
        "looking adds",
        "interval IoU",
        "key hit",
        "format",
        "turns",
    ):
        table.add_column(column, justify="left" if column == "group" else "right", min_width=0 if column == "n" else 5)
    blind = results.get("blind", {}).get("summary", {})
    for name, row in results["sighted"]["summary"].items():
        shut = blind.get(name, {})
        cells = [
            _percent(row["jf"]),
            _percent(shut.get("jf")),
            _percent(row["j_visible"]),
            _percent(shut.get("j_visible")),
            _percent(results.get("over_blind", {}).get(name)),
        ]
        cells += [_percent(row["interval_iou"]), _percent(row["key_hit"]), _percent(row["format"])]
        turns = row["turns"]  # None where no task is of this group
        table.add_row(name, str(row["n"]), *cells, f"{turns[0]:.2f}" if turns else "-")
    return table


def _percent(triple: Sequence[float] | None) -> str:
    if triple is None:
        return "-"
    mean, low, high = triple
    return f"{100 * mean:.1f} ±{50 * (high - low):.1f}"
