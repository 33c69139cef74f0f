"""Data sets by layout. To add one: a loader `(root, faults) -> Tasks` in a file of its own, and a line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from configs.schema import RunConfig
from cot_data.faults import RAISE, Faults
from cot_data.mevis import load_mevis
from cot_data.tasks import Tasks
from env.errors import DataError

DATASETS: dict[str, Callable[[Path, Faults], Tasks]] = {"mevis": load_mevis}


def load_tasks(name: str, root: str | Path, faults: Faults = RAISE) -> Tasks:
    """All tasks of the data set in folder `root`, in file order; frames and masks are read when a task is taken.

    DataError where the metadata is not what it should be, and on taking a task whose frames or masks are not.
    """
    if name not in DATASETS:
        raise DataError("data.dataset", f"expected one of {', '.join(DATASETS)}, found {name!r}")
    return DATASETS[name](Path(root).absolute(), faults)


def held_out_tasks(config: RunConfig) -> Tasks:
    """The held-out tasks that `eval.num_tasks` asks for, in file order."""
    tasks = load_tasks(config.data.dataset, config.data.eval_root)
    return tasks[: config.eval.num_tasks] if config.eval.num_tasks else tasks
