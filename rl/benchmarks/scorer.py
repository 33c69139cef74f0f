"""Score predicted masks by a benchmark's protocol, or write the archive for its server where gold is hidden."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from configs.plain_text import plain
from cot_data.tasks import UnreadableTask, read_each
from env.errors import DataError
from env.terminal import shown
from env.types import RLE, Task, Trajectory, names_in
from rl.benchmarks.expression_scores import Prediction, expression_metrics, foreground, missing
from rl.benchmarks.protocols import BENCHMARKS, BenchmarkProtocol, summarise
from rl.benchmarks.ref_davis17 import annotator_metrics
from rl.benchmarks.submission import write_submission
from rl.runtime.failed_tasks import failure_note, failure_summary
from rl.runtime.progress import progress_bar

COLUMNS = {"jf": "J&F", "j": "J", "f": "F", "a": "A", "r": "R", "tiou": "tIoU", "viou": "vIoU"}


class Predictions(Protocol):
    """A source of predicted masks."""

    def of(self, task: Task) -> Prediction:
        """Return the prediction for one expression; `missing(task)` where there is none."""
        ...


class TrajectoryPredictions:
    """The masks of trajectories, of any model family. A trajectory without masks counts as missing, or as failed."""

    def __init__(self, trajectories: Iterator[Trajectory]):
        self._masks: dict[str, dict[int, RLE]] = {}
        self._errors: dict[str, str] = {}
        for each in trajectories:
            if each.has_failed:
                self._errors[each.task.task_id] = each.error or "no reason is stored"
            else:
                self._masks[each.task.task_id] = each.masks

    def of(self, task: Task) -> Prediction:
        masks = self._masks.get(task.task_id)
        if not masks:
            return missing(task, self._errors.get(task.task_id, ""))
        return Prediction(tuple(masks.get(at) for at in range(task.video.num_frames)))


def is_gold_known(name: str, tasks: Sequence[Task]) -> bool:
    """Return whether the first task of a benchmark that can be read, and so every one, has gold masks.

    DataError for an unknown benchmark, and where no task can be read.
    """
    if name not in BENCHMARKS:
        raise DataError("--benchmark", f"expected one of {', '.join(BENCHMARKS)}, found {name!r}")
    for task in read_each(tasks):
        if isinstance(task, Task):
            return bool(task.gold)
    return bool(tasks) and bool(tasks[0].gold)  # raises what is wrong with the first


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
        pass_ = _Pass(predictions, advance)
        if not is_gold_known(name, tasks):
            path = out / "submission.zip"
            num_missing = write_submission(protocol, pass_.each(read_each(chosen)), path)
            results |= {"submission": str(path), "num_missing": num_missing}
        else:
            rows = list(_rows(protocol, tasks, limit, pass_))
            results |= {"rows": rows, **summarise(protocol, rows)}
    if protocol.by_annotator and "rows" in results:
        good = [task for task in read_each(chosen) if isinstance(task, Task)]
        results["by_annotator"] = annotator_metrics(good, {task.task_id: predictions.of(task) for task in good})
    failed = failure_summary(pass_.failed | pass_.unreadable, len(chosen), "empty")
    return results | {"failed": failed, "num_unreadable": len(pass_.unreadable)}


class _Pass:
    """One pass over tasks with their predictions; it notes which failed and which tasks cannot be read, with reasons.

    A task that cannot be read is left out of the figures: its gold masks are not known.
    """

    def __init__(self, predictions: Predictions, advance: Any):
        self._predictions = predictions
        self._advance = advance
        self.failed: dict[str, str] = {}
        self.unreadable: dict[str, str] = {}

    def each(self, tasks: Iterable[Task | UnreadableTask]) -> Iterator[tuple[Task, Prediction]]:
        for task in tasks:
            if isinstance(task, UnreadableTask):
                self.unreadable[task.task_id] = task.reason
            else:
                prediction = self._predictions.of(task)
                if prediction.error:
                    self.failed[task.task_id] = prediction.error
                yield task, prediction
            self._advance()


def _rows(protocol: BenchmarkProtocol, tasks: Sequence[Task], limit: int, pass_: _Pass) -> Iterator[dict[str, Any]]:
    """Yield the rows of the first `limit` tasks. The foreground of a video is that of all its expressions.

    Only one video's tasks are in memory: a whole benchmark with its gold masks may not fit.
    """
    done = 0
    for _, group in groupby(read_each(tasks), key=lambda task: names_in(task.task_id)[0]):
        if limit and done >= limit:
            return
        members = list(group)
        good = [task for task in members if isinstance(task, Task)]
        annotated = foreground(good) if "r" in protocol.metrics and good else None
        for task, prediction in pass_.each(members[: limit - done] if limit else members):
            yield expression_metrics(protocol, task, prediction, annotated)
        done += len(members)


def benchmark_table(results: dict[str, Any], title: str) -> Group:
    """Lay out percentages by subset, and below them what was missing and which rules were followed."""
    table = Table(title=shown(title), box=SIMPLE_HEAD, collapse_padding=True)
    part = "" if results["num_tasks"] == results["num_all"] else f" (of {results['num_all']}: not the whole benchmark)"
    notes = [f"{results['num_tasks']} expressions{part}, {results['num_missing']} without prediction"]
    table.add_column(results["name"])
    if failure := failure_note(results.get("failed"), "expressions"):
        notes.append(plain(failure))
    if left_out := results.get("num_unreadable"):
        notes.append(f"{left_out} of them cannot be read and are left out, so this is not the whole benchmark")
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
