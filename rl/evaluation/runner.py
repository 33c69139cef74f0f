"""Evaluate a checkpoint on a list of tasks: segment what is not segmented yet, then measure all trajectories.

The folder of an evaluation holds `evaluation.json` (`rl.evaluation.identity`), the trajectories of finished tasks and,
at the end, the figures. An interrupted evaluation goes on from its trajectories. A task that fails, or whose data
cannot be read, is counted apart with its reason, and the others go on; the next start tries it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from configs.schema import RunConfig
from cot_data.tasks import Tasks, UnreadableTask, read_each, readable
from env.errors import DataError
from env.store import TrajectoryStore
from env.types import Task
from rl.evaluation import statistics
from rl.evaluation.identity import STORES, claim
from rl.evaluation.statistics import slices_of
from rl.evaluation.trajectory_metrics import METRICS, measure
from rl.evaluation.worker import EvaluationPool
from rl.families import as_trained
from rl.runtime.failed_tasks import answered, failure_summary
from rl.runtime.progress import progress_bar


def segment_tasks(
    config: RunConfig, checkpoint: Path, tasks: Sequence[Task], out: Path, labels: Sequence[str]
) -> dict[str, TrajectoryStore]:
    """Segment every task that `out` holds no trajectory of. Trajectories that ended in an error are tried again.

    Args:
        config: Of the run.
        checkpoint: Folder of the model, of any family.
        tasks: What to segment. Those that cannot be read are left out.
        out: Folder of the evaluation.
        labels: Keys of `STORES`: "sighted", and "blind" for the same model shown grey frames.

    Returns:
        Label -> the store that holds one trajectory of every task that can be read.

    Raises:
        DataError: `out` belongs to another evaluation.
    """
    config = as_trained(config, checkpoint)
    good, unreadable = readable(tasks)
    claim(out, config, checkpoint, good, [task.task_id for task in unreadable])
    stores = {label: TrajectoryStore(out / STORES[label]) for label in labels}
    todo: dict[str, list[Task]] = {}
    for label, store in stores.items():
        store.drop_errors()
        done = {trajectory.task.task_id for trajectory in store.read()}
        todo[label] = [task for task in good if task.task_id not in done]
    if any(todo.values()):
        with closing(EvaluationPool(config, checkpoint)) as pool:
            for label, left in todo.items():
                with progress_bar(f"segment ({label})", len(good), len(good) - len(left)) as advance:
                    for trajectory in pool.segment(left, is_blind=label == "blind"):
                        stores[label].append([trajectory])
                        advance()
    return stores


def measure_tasks(
    config: RunConfig, stores: dict[str, TrajectoryStore], tasks: Sequence[Task]
) -> dict[str, dict[str, Any]]:
    """Measure the trajectories of `tasks`.

    Args:
        config: Of the run; `eval.num_bootstrap` and `seed` decide the intervals, `eval.failed` what becomes of tasks
            that failed.
        stores: What `segment_tasks` returns.
        tasks: The same as were given to it.

    Returns:
        Label -> "rows" in the order of `tasks`, their "summary", and "failed" (`rl.runtime.failed_tasks`); and
        "over_blind", the gain over the blind model on the tasks that both answered, where there is one.
    """
    results: dict[str, dict[str, Any]] = {}
    num_bootstrap, seed = config.eval.num_bootstrap, config.seed
    for label, store in stores.items():
        with progress_bar(f"measure ({label})", len(tasks)) as advance:
            rows, reasons = _measured(store, config.eval.failed, advance)
        ids = task_ids(tasks)
        reasons |= _reasons_of_unreadable(tasks, [at for at, name in enumerate(ids) if name not in rows | reasons])
        ordered = [rows[name] for name in ids if name in rows]
        failed = failure_summary({name: reasons[name] for name in ids if name in reasons}, len(ids), config.eval.failed)
        results[label] = {"rows": ordered, "summary": summarise(ordered, num_bootstrap, seed), "failed": failed}
    if "blind" in results:
        sighted, blind = (answered(results[label]["rows"]) for label in ("sighted", "blind"))
        both = [name for name in sighted if name in blind]
        seen, unseen = [[dict(rows[name]) for name in both] for rows in (sighted, blind)]
        results["over_blind"] = over_blind(seen, unseen, num_bootstrap, seed)
    return results


def task_ids(tasks: Sequence[Task]) -> list[str]:
    """Return the ids of all tasks, without reading those of a data set."""
    return [task.task_id for task in (tasks.outlines if isinstance(tasks, Tasks) else tasks)]


def _measured(store: TrajectoryStore, rule: str, advance: Any) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return the rows, and the reasons of the tasks that failed, by task id."""
    rows: dict[str, dict[str, Any]] = {}
    reasons: dict[str, str] = {}
    for trajectory in store.read():
        advance()
        task_id = trajectory.task.task_id
        if trajectory.has_failed:
            reasons[task_id] = trajectory.error
        if trajectory.has_failed and rule == "exclude":
            continue
        try:
            rows[task_id] = measure(trajectory)
        except DataError as error:
            reasons[task_id] = str(error)
    return rows, reasons


def _reasons_of_unreadable(tasks: Sequence[Task], missing: Sequence[int]) -> dict[str, str]:
    """Return task id -> why the task at one of these positions was not segmented."""
    reasons = {}
    for at in missing:
        (found,) = read_each(tasks[at : at + 1])
        reasons[found.task_id] = found.reason if isinstance(found, UnreadableTask) else "it was not segmented"
    return reasons


def summarise(rows: Sequence[dict[str, Any]], num_bootstrap: int, seed: int) -> dict[str, dict[str, Any]]:
    """Summarise rows of `measure` by slice.

    Args:
        rows: One per task.
        num_bootstrap: Resamples behind each interval.
        seed: Of the resamples.

    Returns:
        Slice name -> "n", its number of tasks, and metric -> (mean, low, high), None where it applies to no task.
    """
    summary: dict[str, dict[str, Any]] = {}
    for name, members in slices_of(rows).items():
        chosen = [rows[at] for at in members]
        summary[name] = {"n": len(members), **statistics.summarise(chosen, METRICS, num_bootstrap, seed)}
    return summary


def over_blind(
    sighted: Sequence[dict[str, Any]], blind: Sequence[dict[str, Any]], num_bootstrap: int, seed: int
) -> dict[str, statistics.Estimate | None]:
    """Estimate how much the frames add to `j_visible`, task by task.

    Args:
        sighted: Rows of the model that sees the video.
        blind: Rows of the same model shown grey frames, in the same order.
        num_bootstrap: Resamples behind each interval.
        seed: Of the resamples.

    Returns:
        Slice name -> (mean, low, high) of sighted minus blind, None where no task shows its target.
    """
    gains: dict[str, statistics.Estimate | None] = {}
    for name, members in slices_of(sighted).items():
        known = [at for at in members if sighted[at]["j_visible"] is not None]
        without, seeing = ([float(rows[at]["j_visible"]) for at in known] for rows in (blind, sighted))
        gains[name] = statistics.paired_difference(without, seeing, num_bootstrap, seed) if known else None
    return gains
