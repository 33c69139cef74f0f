"""Load the data sets that a run trains on: one, or several with weights, as the config's `data` names them."""

from __future__ import annotations

from pathlib import Path

from configs.schema import DataConfig, SourceConfig
from cot_data.datasets import load_tasks
from cot_data.datasets.matching import match
from cot_data.datasets.missing_root import require_root
from cot_data.formats.rl_records import read_rl_records
from cot_data.tasks import Tasks


def training_sources(data: DataConfig) -> tuple[SourceConfig, ...]:
    """Return `data.train`, or the data set of `data.train_root` if that is empty."""
    return data.train or (SourceConfig(data.dataset, data.train_root, traces=data.traces),)


def load_source(source: SourceConfig) -> Tasks:
    """Return the tasks of one data set, only those of its RL file (`only`) if it names one. Raises DataError."""
    require_root("data.train_root (or root in data.train)", source.dataset, source.root)
    tasks = load_tasks(source.dataset, source.root)
    if not source.only:
        return tasks
    rows = match(read_rl_records(Path(source.only)), tasks.outlines, source.only)
    return Tasks([tasks.entries[row] for row in dict.fromkeys(rows)])
