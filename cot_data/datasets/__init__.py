"""Data sets by layout. To add one, write a loader `(root, faults) -> Tasks` in a new file, and a line in `DATASETS`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from configs.names import unknown_name
from configs.schema import RunConfig
from cot_data.datasets.groundmore import load_groundmore
from cot_data.datasets.long_rvos import load_long_rvos
from cot_data.datasets.mevis import load_mevis
from cot_data.datasets.missing_root import require_root
from cot_data.datasets.reason_vos import load_reason_vos
from cot_data.datasets.ref_davis17 import load_ref_davis17
from cot_data.datasets.ref_sav import load_ref_sav
from cot_data.datasets.ref_youtube_vos import load_ref_youtube_vos
from cot_data.datasets.revos import load_revos
from cot_data.faults import RAISE, Faults
from cot_data.tasks import Tasks
from env.errors import DataError
from env.outside_names import check_path

DATASETS: dict[str, Callable[[Path, Faults], Tasks]] = {
    "mevis": load_mevis,
    "ref_youtube_vos": load_ref_youtube_vos,
    "ref_davis17": load_ref_davis17,
    "revos": load_revos,
    "reason_vos": load_reason_vos,
    "long_rvos": load_long_rvos,
    "ref_sav": load_ref_sav,
    "groundmore": load_groundmore,
}


def load_tasks(name: str, root: str | Path, faults: Faults = RAISE) -> Tasks:
    """Open a data set. Frames and masks are read when a task is accessed.

    Args:
        name: a key of `DATASETS`.
        root: folder of the data set or of its split, as the loader's module describes it.
        faults: raises the first fault, or collects them and continues.

    Returns:
        All tasks in file order. Accessing one whose frames or masks are broken raises a DataError.

    Raises:
        DataError: the name is unknown, the metadata is broken, or two tasks share an id.
    """
    if name not in DATASETS:
        where, _, problem = unknown_name("data.dataset", name, DATASETS).partition(": ")
        raise DataError(where, problem)
    return _with_safe_ids(DATASETS[name](Path(root).absolute(), faults), faults)


def _with_safe_ids(tasks: Tasks, faults: Faults) -> Tasks:
    """Return the tasks whose ids are safe as paths and stand once: folders and archives are named after them."""
    seen: dict[str, str] = {}
    entries = []
    for entry in tasks.entries:
        with faults.collect():
            task_id = entry.outline.task_id
            check_path(task_id, entry.where)
            if task_id in seen:
                raise DataError(entry.where, f"its id {task_id!r} is also that of {seen[task_id]}; rename one of them")
            seen[task_id] = entry.where
            entries.append(entry)
    return Tasks(entries)


def held_out_tasks(config: RunConfig) -> Tasks:
    """Return the first `eval.num_tasks` tasks of `data.eval_root` in file order; all of them if it is 0."""
    require_root("data.eval_root", config.data.dataset, config.data.eval_root)
    tasks = load_tasks(config.data.dataset, config.data.eval_root)
    return tasks[: config.eval.num_tasks] if config.eval.num_tasks else tasks
