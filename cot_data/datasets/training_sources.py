"""What a run trains on: one data set, or several by weight, as `data` of the config names them."""

from __future__ import annotations

from pathlib import Path

from configs.schema import DataConfig, SourceConfig
from cot_data.datasets import load_tasks
from cot_data.datasets.matching import match
from cot_data.formats.rl_records import read_rl_records
from cot_data.tasks import Tasks


def training_sources(data: DataConfig) -> tuple[SourceConfig, ...]:
    """`data.train`, or where that is empty the one data set of `train_root`."""
    return data.train or (SourceConfig(data.dataset, data.train_root, traces=data.traces),)


def load_source(source: SourceConfig) -> Tasks:
    """The tasks of one data set, those that its RL file names where it has one. DataError."""
    tasks = load_tasks(source.dataset, source.root)
    if not source.only:
        return tasks
    rows = match(read_rl_records(Path(source.only)), tasks.outlines)
    return Tasks([tasks.entries[row] for row in dict.fromkeys(rows)])
