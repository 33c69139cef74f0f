"""Evaluate a checkpoint on a list of tasks: segment what is not segmented yet, then measure all trajectories.

The folder of an evaluation holds `evaluation.json` (`rl.evaluation.identity`), the trajectories of finished tasks and,
at the end, the figures. An interrupted evaluation goes on from its trajectories.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from configs.schema import RunConfig
from env.store import TrajectoryStore
from env.types import Task, Trajectory
from rl.evaluation import statistics
from rl.evaluation.identity import STORES, claim
from rl.evaluation.statistics import slices_of
from rl.evaluation.trajectory_metrics import METRICS, measure
from rl.evaluation.worker import EvaluationPool
from rl.families import as_trained
from rl.runtime.progress import progress_bar


def segment_tasks(
    config: RunConfig, checkpoint: Path, tasks: Sequence[Task], out: Path, labels: Sequence[str]
) -> dict[str, TrajectoryStore]:
    """Segment every task that `out` holds no trajectory of. Trajectories that ended in an error are tried again.

    Args:
        config: Of the run.
        checkpoint: Folder of the model, of any family.
        tasks: What to segment.
        out: Folder of the evaluation.
        labels: Keys of `STORES`: "sighted", and "blind" for the same model shown grey frames.

    Returns:
        Label -> the store that holds one trajectory of every task.

    Raises:
        DataError: `out` belongs to another evaluation.
    """
    config = as_trained(config, checkpoint)
    claim(out, config, checkpoint, tasks)
    stores = {label: TrajectoryStore(out / STORES[label]) for label in labels}
    todo: dict[str, list[Task]] = {}
    for label, store in stores.items():
        store.drop_errors()
        done = {trajectory.task.task_id for trajectory in store.read()}
        todo[label] = [task for task in tasks if task.task_id not in done]
    if any(todo.values()):
        with closing(EvaluationPool(config, checkpoint)) as pool:
            for label, left in todo.items():
                with progress_bar(f"segment ({label})", len(tasks), len(tasks) - len(left)) as advance:
                    for trajectory in pool.segment(left, is_blind=label == "blind"):
                        stores[label].append([trajectory])
                        advance()
    return stores


def measure_tasks(
    config: RunConfig, stores: dict[str, TrajectoryStore], tasks: Sequence[Task]
) -> dict[str, dict[str, Any]]:
    """Measure the trajectories of `tasks`.

    Args:
        config: Of the run; `eval.num_bootstrap` and `seed` decide the intervals.
        stores: What `segment_tasks` returns.
        tasks: Those that were segmented.

    Returns:
        Label -> "rows" in the order of `tasks` and their "summary"; and "over_blind", the gain over the blind model,
        where there is one.
    """
    results: dict[str, dict[str, Any]] = {}
    for label, store in stores.items():
        with progress_bar(f"measure ({label})", len(tasks)) as advance:
            rows = {row["task_id"]: row for row in (_measured(item, advance) for item in store.read())}
        ordered = [rows[task.task_id] for task in tasks]
        results[label] = {"rows": ordered, "summary": summarise(ordered, config.eval.num_bootstrap, config.seed)}
    if "blind" in results:
        pair = (results["sighted"]["rows"], results["blind"]["rows"])
        results["over_blind"] = over_blind(*pair, config.eval.num_bootstrap, config.seed)
    return results


def _measured(trajectory: Trajectory, advance: Any) -> dict[str, Any]:
    advance()
    return measure(trajectory)


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
