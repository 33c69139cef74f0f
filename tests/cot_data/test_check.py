"""`cot_data.check` reports every planted fault with file, record and field, and no others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cot_data.check import cells, check
from cot_data.datasets import load_tasks
from env.errors import DataError
from tests.helpers.planted_faults import FAULTS, damaged
from tests.helpers.published_layouts import LAYOUTS


@pytest.mark.parametrize("layout", LAYOUTS)
def test_valid_data_has_no_faults(layout: str, tmp_path: Path) -> None:
    name, write = LAYOUTS[layout]
    assert check(name, write(tmp_path)).found == []


@pytest.mark.parametrize("layout", FAULTS)
def test_every_planted_fault_is_reported(layout: str, tmp_path: Path) -> None:
    name, root = damaged(layout, tmp_path)
    reported = [cells(fault) for fault in check(name, root).found]
    for _, file, record, field, problem in FAULTS[layout]:
        fits = [
            row
            for row in reported
            if row[0].endswith(file) and row[1:3] == (record, field) and problem in row[3] and row[4] != ""
        ]
        assert len(fits) >= 1, (file, record, field, problem, reported)
    assert len({row[:4] for row in reported}) == len(reported), "each fault once"


def test_there_are_enough_faults() -> None:
    assert sum(len(planted) for planted in FAULTS.values()) >= 25


@pytest.mark.parametrize("layout", FAULTS)
def test_a_loader_raises_a_fault_that_the_check_lists(layout: str, tmp_path: Path) -> None:
    name, root = damaged(layout, tmp_path)
    listed = {(fault.where, fault.problem) for fault in check(name, root).found}
    with pytest.raises(DataError) as caught:
        list(load_tasks(name, root))
    assert (caught.value.where, caught.value.problem) in listed


def run(root: Path, name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cot_data.check", str(root), "--dataset", name]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_prints_a_table_and_fails(tmp_path: Path) -> None:
    name, root = damaged("revos", tmp_path)
    done = run(root, name)
    assert done.returncode == 1
    assert "2 faults" in done.stdout and "type_id" in done.stdout and "what to do" in done.stdout
    valid = LAYOUTS["revos"][1](tmp_path / "valid")
    done = run(valid, name)
    assert (done.returncode, done.stdout) == (0, f"{valid}: 0 faults\n")


def test_a_missing_root_is_one_fault(tmp_path: Path) -> None:
    (fault,) = check("mevis", tmp_path / "nowhere").found
    assert "expected a JSON file, found none" in fault.problem
