"""Rows of the report's tables: metrics of each policy on the held-out tasks, with intervals. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from env.types import Trajectory
from rl.evaluation.statistics import paired_difference
from rl.runtime.failed_tasks import answered, failure_note

METRICS = {
    "jf": "J&F",
    "j_visible": "J visible",
    "interval_iou": "Interval IoU",
    "key_hit": "Key hit",
    "format": "Format",
    "turns": "Turns",
}
WITH_BLIND = ("jf", "j_visible")  # metrics that are shown beside those of the blind policy
NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Evaluated:
    """One policy on the held-out tasks."""

    name: str  # "cold-started"
    page: str  # file name of its replay page, beside the report
    results: dict[str, Any]  # what rl.evaluate wrote to results.json
    trajectories: list[Trajectory]  # sighted, one per held-out task, in file order


@dataclass(frozen=True)
class Cell:
    """A mean with its 95 % interval and, where there is one, the blind policy's mean and interval, all as text."""

    mean: str
    interval: str = ""
    blind: str = ""


def main_rows(stages: Sequence[Evaluated]) -> list[tuple[str, list[Cell]]]:
    """Return (stage, one cell per metric) over all held-out tasks."""
    return [(stage.name, [_cell(stage, "all", key) for key in METRICS]) for stage in stages]


def failure_notes(stages: Sequence[Evaluated]) -> list[str]:
    """Return a sentence on every policy that failed on tasks, sighted or blind: how many, and why."""
    notes = []
    for stage in stages:
        for part, what in (("sighted", "tasks"), ("blind", "tasks shown grey")):
            if note := failure_note(stage.results.get(part, {}).get("failed"), what):
                notes.append(f"{stage.name}: {note}")
    return notes


def change_rows(stages: Sequence[Evaluated]) -> list[tuple[str, list[Cell]]]:
    """Return (later - earlier, one cell per metric), paired over the tasks that both answered and it applies to."""
    rows = []
    for before, after in pairwise(stages):
        old, new = (answered(stage.results["sighted"]["rows"]) for stage in (before, after))
        shared = [task_id for task_id in old if task_id in new]
        cells = []
        for key in METRICS:
            pairs = [(old[at][key], new[at][key]) for at in shared]
            pairs = [(a, b) for a, b in pairs if a is not None and b is not None]
            was, now = [a for a, _ in pairs], [b for _, b in pairs]
            triple = paired_difference(was, now, NUM_RESAMPLES, 0) if pairs else None
            cells.append(_format(triple, key, signed=True))
        rows.append((f"{after.name} \N{MINUS SIGN} {before.name}", cells))
    return rows


def slice_rows(stages: Sequence[Evaluated]) -> list[tuple[str, int, list[list[Cell]]]]:
    """Return (slice, tasks, per stage the cells of `WITH_BLIND`): families, then whether exploring pays."""
    if not stages:
        return []
    summary = stages[0].results["sighted"]["summary"]
    slices = sorted((name for name in summary if name != "all"), key=lambda name: (name.startswith("exploring"), name))
    return [
        (name, summary[name]["n"], [[_cell(stage, name, key) for key in WITH_BLIND] for stage in stages])
        for name in slices
    ]


def _cell(stage: Evaluated, slice_name: str, key: str) -> Cell:
    sighted = stage.results["sighted"]["summary"].get(slice_name, {}).get(key)
    blind = stage.results.get("blind", {}).get("summary", {}).get(slice_name, {}).get(key)
    unseen = _format(blind, key)
    cell = _format(sighted, key)
    return Cell(cell.mean, cell.interval, f"{unseen.mean} {unseen.interval}".strip()) if key in WITH_BLIND else cell


def _format(triple: Sequence[float] | None, key: str, signed: bool = False) -> Cell:
    """Format in percent, except turns; `signed` for differences; "-" where the metric does not apply."""
    if triple is None:
        return Cell("-")
    scale, digits = (1, 2) if key == "turns" else (100, 1)
    mean, low, high = (f"{scale * value:{'+' if signed else ''}.{digits}f}" for value in triple)
    return Cell(mean, f"[{low}, {high}]")
