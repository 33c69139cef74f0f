"""The faults that `cot_data.check` finds in a data set."""

from __future__ import annotations

from pathlib import Path

from cot_data.check import check
from env.errors import DataError


def faults_of(name: str, root: Path) -> list[DataError]:
    return check(name, root).found
