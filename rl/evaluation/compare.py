"""Compare two evaluations of the same tasks: paired differences by slice, with bootstrap intervals.

Only tasks that both answered are paired; those that failed in either are counted as left out.

    python -m rl.evaluate --compare runs/demo/eval/cold_start runs/demo/eval/grpo --out runs/demo/compare

Each folder holds the `results.json` of one `rl.evaluate`; the two models may be of different families. Writes
`compare.json`, `compare.txt` and `compare.png`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from rich.box import SIMPLE_HEAD
from rich.table import Table

from configs.plain_text import plain
from cot_data.formats.json_fields import field, read_json
from env.errors import DataError
from env.files import make_folder, replace_path, write_json
from env.terminal import shown
from rl.evaluation.statistics import Estimate, paired_difference, slices_of
from rl.runtime.failed_tasks import answered

PAIRED = {
    "jf": "J&F",
    "j_visible": "J visible",
    "interval_iou": "interval IoU",
    "key_hit": "key hit",
    "format": "format",
    "turns": "turns",
}
PLOTTED = ("jf", "j_visible")

Differences = dict[str, dict[str, Any]]
"""Slice -> "n" (pairs) and, per metric, the estimate of the second minus the first; "all" has "left_out" too."""


def read_rows(folder: Path) -> tuple[dict[str, Mapping[str, Any]], set[str]]:
    """Return task id -> metrics of a sighted evaluation's answers, and the ids of all its tasks, failed ones included.

    DataError where the folder holds none.
    """
    path = folder / "results.json"
    sighted = field(read_json(path), "sighted", dict, str(path))
    rows = field(sighted, "rows", list, f"{path}: sighted")
    ids = {field(row, "task_id", str, f"{path}: sighted.rows[{at}]") for at, row in enumerate(rows)}
    failed = sighted.get("failed", {"tasks": {}})  # older versions had no such entry
    return answered(rows), ids | set(field(failed, "tasks", dict, f"{path}: sighted.failed"))


def compare(first: Path, second: Path, num_bootstrap: int, seed: int) -> Differences:
    """Estimate what `second` gains over `first`, task by task.

    Args:
        first: Folder of an evaluation.
        second: Folder of another evaluation of the same tasks.
        num_bootstrap: Resamples behind each interval.
        seed: Of the resamples.

    Returns:
        The differences by slice of the tasks.

    Raises:
        DataError: The evaluations are of different tasks, or a folder holds none.
    """
    (before, ids), (after, other_ids) = read_rows(first), read_rows(second)
    if ids != other_ids:
        odd = sorted(ids ^ other_ids)
        raise DataError(str(second / "results.json"), f"expected the tasks of {first}, {len(odd)} differ: {odd[0]} ..")
    pairs = [(before[task_id], after[task_id]) for task_id in before if task_id in after]
    differences: Differences = {
        name: {"n": len(members), **_differences([pairs[at] for at in members], num_bootstrap, seed)}
        for name, members in slices_of([dict(row) for row, _ in pairs]).items()
    }
    differences["all"]["left_out"] = len(ids) - len(pairs)
    return differences


def _differences(
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], num_bootstrap: int, seed: int
) -> dict[str, Estimate | None]:
    """Return metric -> estimate over the pairs to both of which it applies; None where there is no such pair."""
    out: dict[str, Estimate | None] = {}
    for metric in PAIRED:
        values = [(a[metric], b[metric]) for a, b in pairs]
        known = [(float(a), float(b)) for a, b in values if a is not None and b is not None]
        before, after = [a for a, _ in known], [b for _, b in known]
        out[metric] = paired_difference(before, after, num_bootstrap, seed) if known else None
    return out


def compare_table(differences: Differences, first: Path, second: Path) -> Table:
    """Lay differences out in percentage points (turns: in turns), with half-widths of the 95 % interval.

    Args:
        differences: What `compare` returns.
        first: Folder of the earlier evaluation, for the title.
        second: Folder of the later one.

    Returns:
        A row per slice, "-" where a metric does not apply.
    """
    table = Table(title=shown(f"{second} minus {first}"), box=SIMPLE_HEAD, collapse_padding=True)
    for column in ("slice", "n", *PAIRED.values()):
        table.add_column(column, justify="left" if column == "slice" else "right")
    for name, row in differences.items():
        cells = [_cell(row[metric], 1 if metric == "turns" else 100) for metric in PAIRED]
        table.add_row(shown(name), str(row["n"]), *cells)
    if left_out := differences["all"].get("left_out"):
        table.caption = f"{left_out} tasks are left out, because one of the two failed on them"
    return table


def _cell(estimate: Estimate | None, scale: int) -> str:
    if estimate is None:
        return "-"
    mean, low, high = (scale * value for value in estimate)
    digits = 1 if scale > 1 else 2
    return f"{mean:+.{digits}f} ±{(high - low) / 2:.{digits}f}"


def plot(differences: Differences, path: Path) -> None:
    """Plot a row per slice: the mean difference of J&F and of J on visible frames, with its 95 % interval."""
    names = list(differences)[::-1]
    figure, axis = plt.subplots(figsize=(7, 0.6 + 0.45 * len(names)), layout="constrained")
    for at, metric in enumerate(PLOTTED):
        known = [(row, differences[name][metric]) for row, name in enumerate(names) if differences[name][metric]]
        means = [100 * mean for _, (mean, _, _) in known]
        below = [100 * (mean - low) for _, (mean, low, _) in known]
        above = [100 * (high - mean) for _, (mean, _, high) in known]
        rows = [row + 0.12 * (1 - 2 * at) for row, _ in known]
        axis.errorbar(means, rows, xerr=[below, above], fmt="os"[at], capsize=3, label=PAIRED[metric])
    axis.axvline(0, color="0.6", linewidth=1, zorder=0)
    axis.set_yticks(range(len(names)), [_label(name, differences[name]["n"]) for name in names])
    axis.set_xlabel("difference in percentage points, 95 % interval")
    axis.legend(loc="lower right")
    with replace_path(path) as draft:
        figure.savefig(draft, dpi=150)
    plt.close(figure)


def _label(name: str, num_tasks: int) -> str:
    """Return the text beside a row; a dollar sign would begin a formula."""
    return plain(f"{name} (n={num_tasks})").replace("$", r"\$")


def write_comparison(differences: Differences, out: Path) -> None:
    """Write `compare.json` and `compare.png`."""
    make_folder(out)
    write_json(out / "compare.json", differences)
    plot(differences, out / "compare.png")
