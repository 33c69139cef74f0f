"""Data sets by layout. To add one: a loader `(root) -> list[Task]` in a file of its own, and a line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from configs.schema import RunConfig
from cot_data.mevis import load_mevis
from env.errors import DataError
from env.types import Task

DATASETS: dict[str, Callable[[Path], list[Task]]] = {"mevis": load_mevis}


def load_tasks(name: str, root: str | Path) -> list[Task]:
    """All tasks of the data set in folder `root`; DataError where the layout or the data is not what it should be."""
    if name not in DATASETS:
        raise DataError("data.dataset", f"expected one of {', '.join(DATASETS)}, found {name!r}")
    return DATASETS[name](Path(root))


def held_out_tasks(config: RunConfig) -> list[Task]:
    """The held-out tasks that `eval.num_tasks` asks for, in file order."""
    tasks = load_tasks(config.data.dataset, config.data.eval_root)
    return tasks[: config.eval.num_tasks] if config.eval.num_tasks else tasks
