"""Score predicted masks by a benchmark's protocol, or write the archive for its server where gold is hidden."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from env.errors import DataError
from env.terminal import shown
from env.types import Task, Trajectory, names_in
from rl.benchmarks.expression_scores import Prediction, expression_metrics, foreground, missing
from rl.benchmarks.protocols import BENCHMARKS, BenchmarkProtocol, summarise
from rl.benchmarks.ref_davis17 import annotator_metrics
from rl.benchmarks.submission import write_submission
from rl.runtime.progress import progress_bar

COLUMNS = {"jf": "J&F", "j": "J", "f": "F", "a": "A", "r": "R", "tiou": "tIoU", "viou": "vIoU"}


class Predictions(Protocol):
    """A source of predicted masks."""

    def of(self, task: Task) -> Prediction:
        """Return the prediction for one expression; `missing(task)` where there is none."""
        ...


class TrajectoryPredictions:
    """The masks of trajectories, of any model family. A trajectory without masks counts as missing."""

    def __init__(self, trajectories: Iterator[Trajectory]):
        self._masks = {each.task.task_id: each.masks for each in trajectories}

    def of(self, task: Task) -> Prediction:
        masks = self._masks.get(task.task_id)
        if not masks:
            return missing(task)
        return Prediction(tuple(masks.get(at) for at in range(task.video.num_frames)))


def is_gold_known(name: str, tasks: Sequence[Task]) -> bool:
    """Return whether a benchmark's first task, and so all, has gold masks. DataError for an unknown benchmark."""
    if name not in BENCHMARKS:
        raise DataError("--benchmark", f"expected one of {', '.join(BENCHMARKS)}, found {name!r}")
    return bool(tasks) and bool(tasks[0].gold)


def score_benchmark(
    name: str, tasks: Sequence[Task], limit: int, predictions: Predictions, out: Path
) -> dict[str, Any]:
    """Score predictions, or write `out/submission.zip` where gold is hidden.

    Args:
        name: A key of `BENCHMARKS`.
        tasks: All tasks of the benchmark, those of a video next to each other.
        limit: Only the first so many; 0 takes all.
        predictions: Where their masks come from.
        out: Folder for the archive.

    Returns:
        What `results.json` holds as "benchmark": `protocols.summarise` and the rows, or "submission".
    """
    chosen = tasks[:limit] if limit else tasks
    protocol = BENCHMARKS[name]
    results: dict[str, Any] = {"name": name, "about": protocol.about, "num_tasks": len(chosen), "num_all": len(tasks)}
    with progress_bar(f"score ({name})", len(chosen)) as advance:
        if not is_gold_known(name, tasks):
            path = out / "submission.zip"
            num_missing = write_submission(protocol, _each(chosen, predictions, advance), path)
            results |= {"submission": str(path), "num_missing": num_missing}
        else:
            rows = list(_rows(protocol, tasks, limit, predictions, advance))
            results |= {"rows": rows, **summarise(protocol, rows)}
    if protocol.by_annotator and "rows" in results:
        found = {task.task_id: predictions.of(task) for task in chosen}
        results["by_annotator"] = annotator_metrics(chosen, found)
    return results


def _each(tasks: Sequence[Task], predictions: Predictions, advance: Any) -> Iterator[tuple[Task, Prediction]]:
    for task in tasks:
        yield task, predictions.of(task)
        advance()


def _rows(
    protocol: BenchmarkProtocol, tasks: Sequence[Task], limit: int, predictions: Predictions, advance: Any
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the first `limit` tasks. The foreground of a video is that of all its expressions.

    Only one video's tasks are in memory: a whole benchmark with its gold masks may not fit.
    """
    done = 0
    for _, group in groupby(tasks, key=lambda task: names_in(task.task_id)[0]):
        if limit and done >= limit:
            return
        members = list(group)
        annotated = foreground(members) if "r" in protocol.metrics else None
        for task, prediction in _each(members[: limit - done] if limit else members, predictions, advance):
            yield expression_metrics(protocol, task, prediction, annotated)
        done += len(members)


def benchmark_table(results: dict[str, Any], title: str) -> Group:
    """Lay out percentages by subset, and below them what was missing and which rules were followed."""
    table = Table(title=shown(title), box=SIMPLE_HEAD, collapse_padding=True)
    part = "" if results["num_tasks"] == results["num_all"] else f" (of {results['num_all']}: not the whole benchmark)"
    notes = [f"{results['num_tasks']} expressions{part}, {results['num_missing']} without prediction"]
    table.add_column(results["name"])
    if "submission" in results:
        notes[0] += ", written as empty masks"
        table.add_row(shown(f"gold masks are hidden; for the server: {results['submission']}"))
    else:
        notes[0] += f" and {results['num_missing_frames']} frames without one in others, counted as empty"
        metrics = [key for key in COLUMNS if key in results["groups"]["overall"]]
        for column in ("n", *(COLUMNS[key] for key in metrics)):
            table.add_column(column, justify="right")
        groups = dict(results["groups"])
        if "by_annotator" in results:
            groups["overall, by annotator (P1)"] = results["by_annotator"] or {"n": "-"}
        for group, values in groups.items():
            table.add_row(shown(group), str(values["n"]), *(percent(values.get(key)) for key in metrics))
        if results["n_acc"] is not None:
            notes.append(f"N-acc {percent(results['n_acc'])}, T-acc {percent(results['t_acc'])}")
    return Group(table, *notes, results["about"])


def percent(value: float | None) -> str:
    """Format 0..1 as a percentage; "-" for None."""
    return "-" if value is None else f"{100 * value:.2f}"
