"""A checkpoint on a list of tasks: segment what is not segmented yet, then measure everything.

The folder of an evaluation holds `evaluation.json` (what it belongs to), the trajectories of tasks that are done, and
at the end the figures. An interrupted evaluation goes on from the trajectories; another one does not mix with them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs.schema import RunConfig
from cot_data.formats.json_fields import read_json
from env.errors import CheckpointError, DataError
from env.store import TrajectoryStore
from env.types import Task, Trajectory
from rl.evaluation import statistics
from rl.evaluation.statistics import slices_of
from rl.evaluation.trajectory_metrics import METRICS, measure
from rl.evaluation.worker import EvaluationPool
from rl.rollout.request import RolloutRequest
from rl.runtime.progress import progress_bar

STORES = {"sighted": "trajectories", "blind": "trajectories_blind"}


def segment_tasks(
    config: RunConfig, checkpoint: Path, tasks: Sequence[Task], out: Path, labels: Sequence[str]
) -> dict[str, TrajectoryStore]:
    """Stores, by label of `STORES`, with a trajectory of every task; those that `out` holds already are kept.

    DataError where `out` belongs to another evaluation. Trajectories that ended in an error are tried again.
    """
    claim(out, config, checkpoint, tasks)
    stores = {label: TrajectoryStore(out / STORES[label]) for label in labels}
    todo: dict[str, list[RolloutRequest]] = {}
    for label, store in stores.items():
        store.drop_errors()
        done = {trajectory.task.task_id for trajectory in store.read()}
        left = [task for task in tasks if task.task_id not in done]
        todo[label] = [RolloutRequest(task, -1, 0, config.seed, config.eval.temperature) for task in left]
    if any(todo.values()):
        with closing(EvaluationPool(config, checkpoint)) as crew:
            for label, requests in todo.items():
                with progress_bar(f"segment ({label})", len(tasks), len(tasks) - len(requests)) as advance:
                    for trajectory in crew.segment(requests, is_blind=label == "blind"):
                        stores[label].append([trajectory])
                        advance()
    return stores


def measure_tasks(
    config: RunConfig, stores: dict[str, TrajectoryStore], tasks: Sequence[Task]
) -> dict[str, dict[str, Any]]:
    """Label -> "rows" in the order of `tasks` and their "summary"; and "over_blind" where there is a blind one."""
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
    """Group name -> measure -> [mean, low, high], and "n"."""
    summary: dict[str, dict[str, Any]] = {}
    for name, members in slices_of(rows).items():
        chosen = [rows[at] for at in members]
        summary[name] = {"n": len(members), **statistics.summarise(chosen, METRICS, num_bootstrap, seed)}
    return summary


def over_blind(
    sighted: Sequence[dict[str, Any]], blind: Sequence[dict[str, Any]], num_bootstrap: int, seed: int
) -> dict[str, statistics.Estimate | None]:
    """Group name -> [mean, low, high] of what looking adds to `j_visible`, task by task; both lists in one order."""
    gains: dict[str, statistics.Estimate | None] = {}
    for name, members in slices_of(sighted).items():
        known = [at for at in members if sighted[at]["j_visible"] is not None]
        without, with_eyes = ([float(rows[at]["j_visible"]) for at in known] for rows in (blind, sighted))
        gains[name] = statistics.paired_difference(without, with_eyes, num_bootstrap, seed) if known else None
    return gains


def claim(out: Path, config: RunConfig, checkpoint: Path, tasks: Sequence[Task]) -> None:
    """Note in `out` what its trajectories are of. DataError where they are of anything else."""
    path = out / "evaluation.json"
    identity = {
        "checkpoint": _hash_files(checkpoint),
        "env": json.loads(json.dumps(asdict(config.env))),
        "sampler": {"kind": config.sampler.kind, "dtype": config.sampler.dtype},
        "eval": {"temperature": config.eval.temperature, "blind_zooms": config.eval.blind_zooms},
        "compute_dtype": config.policy.compute_dtype,
        "inject_every_frame": config.policy.sam.inject_every_frame,
        "seed": config.seed,
        "tasks": {"n": len(tasks), "sha256": _hash_tasks(tasks)},
    }
    if path.is_file():
        found = read_json(path)
        odd = [key for key in identity if not isinstance(found, dict) or found.get(key) != identity[key]]
        if odd:
            raise DataError(
                str(path),
                f"is of an evaluation with another {', '.join(odd)}; name another --out, or remove {out}",
            )
        return
    for folder in STORES.values():
        if (out / folder).is_dir():
            raise DataError(
                str(out / folder),
                f"expected {path} beside it, which tells whose they are; name another --out, or remove it",
            )
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(identity, indent=1))


def _hash_files(folder: Path) -> str:
    """One SHA-256 over names and contents of a checkpoint's files; where they lie does not matter."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: expected a checkpoint folder, found none")
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        total.update(f"{path.relative_to(folder)} {digest.hexdigest()}\n".encode())
    return total.hexdigest()


def _hash_tasks(tasks: Sequence[Task]) -> str:
    total = hashlib.sha256()
    for task in tasks:
        total.update(repr(task).encode())
    return total.hexdigest()
