"""The table of a checkpoint's metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from configs.plain_text import plain
from env.terminal import shown
from rl.runtime.failed_tasks import failure_note

COLUMNS = ("slice", "n", "J&F", "J&F blind", "J visible", "J visible blind", "video adds", "interval IoU")
COLUMNS += ("key hit", "format", "turns")


def results_table(results: dict[str, Any]) -> Table:
    """Lay out percentages with half-widths of the 95 % interval, the blind baseline in columns of its own.

    A metric that applies to no task of a slice is "-". Tasks that failed are told below.
    """
    title = f"{results['checkpoint']} ({results['num_tasks']} tasks)"
    table = Table(title=shown(title), box=SIMPLE_HEAD, collapse_padding=True)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "slice" else "right", min_width=0 if column == "n" else 5)
    blind = results.get("blind", {}).get("summary", {})
    for name, row in results["sighted"]["summary"].items():
        unseen = blind.get(name, {})
        cells = [
            _percent(row["jf"]),
            _percent(unseen.get("jf")),
            _percent(row["j_visible"]),
            _percent(unseen.get("j_visible")),
            _percent(results.get("over_blind", {}).get(name)),
        ]
        cells += [_percent(row["interval_iou"]), _percent(row["key_hit"]), _percent(row["format"])]
        turns = row["turns"]  # None where it applies to no task of the slice
        table.add_row(shown(name), str(row["n"]), *cells, f"{turns[0]:.2f}" if turns else "-")
    parts = (("sighted", "tasks"), ("blind", "tasks of the blind evaluation"))
    notes = [failure_note(results.get(part, {}).get("failed"), what) for part, what in parts]
    table.caption = Text("\n".join(plain(note) for note in notes if note)) or None
    return table


def _percent(triple: Sequence[float] | None) -> str:
    if triple is None:
        return "-"
    mean, low, high = triple
    return f"{100 * mean:.1f} ±{50 * (high - low):.1f}"
