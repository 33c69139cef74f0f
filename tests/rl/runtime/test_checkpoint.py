"""Checkpoints are whole or absent, on a disk that fills up and after kills at any moment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from env.errors import CheckpointError, MachineError
from env.files import write_text
from rl.runtime import checkpoint
from rl.runtime.checkpoint import complete_checkpoints, latest_checkpoint, load_state, save_checkpoint
from tests.helpers.full_disk import no_file_longer_than

STATE = {"policy": {}, "optimizer": {}, "schedule": {}, "rng": torch.zeros(1)}  # what every state has


def write_policy(folder: Path) -> None:
    folder.mkdir()
    write_text(folder / "policy.json", "{}")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_two_stay(tmp_path: Path):
    for step in (2, 4, 10, 12):
        save_checkpoint(tmp_path, step, write_policy, STATE | {"cursor": step})
    assert names(tmp_path / "checkpoints") == ["step-000010", "step-000012"]
    assert names(tmp_path / "checkpoints" / "step-000012") == ["policy", "state.pt"]
    assert load_state(latest_checkpoint(tmp_path))["cursor"] == 12


@pytest.mark.parametrize("name", [".step-000006.partial", ".step-000006.former", "step-000006.partial", "step-x"])
def test_what_a_kill_left_is_no_checkpoint(tmp_path: Path, name: str):
    save_checkpoint(tmp_path / "a.partial", 4, write_policy, STATE)
    left = tmp_path / "a.partial" / "checkpoints" / name
    left.mkdir()
    (left / "state.pt").write_bytes(b"torn")
    assert latest_checkpoint(tmp_path / "a.partial").name == "step-000004", "whatever the run's folder is called"
    save_checkpoint(tmp_path / "a.partial", 8, write_policy, STATE)
    assert not (tmp_path / "a.partial" / "checkpoints" / ".step-000006.partial").exists()


def test_everything_is_flushed_before_the_folder_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []
    real_open, real_sync, real_replace = os.open, os.fsync, os.replace
    opened: dict[int, str] = {}

    def open_(path: str | Path, *rest: int, **more: int) -> int:
        handle = real_open(path, *rest, **more)
        opened[handle] = str(path)
        return handle

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append(opened.get(handle, "?")), real_sync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append(f"-> {Path(b).name}"), real_replace(a, b))[1])
    folder = save_checkpoint(tmp_path, 4, write_policy, STATE)
    at = calls.index("-> step-000004")
    flushed = {Path(path).name for path in calls[:at]}
    assert {"state.pt", "policy", "policy.json", ".step-000004.partial"} <= flushed
    assert Path(calls[at + 1]) == folder.parent, "and the new name itself"


def test_the_folder_gets_its_name_by_a_rename(tmp_path: Path):
    inodes = []

    def write(folder: Path) -> None:
        write_policy(folder)
        inodes.append(folder.parent.stat().st_ino)

    assert save_checkpoint(tmp_path, 4, write, STATE).stat().st_ino == inodes[0], "a copy could be seen half done"


@pytest.mark.parametrize("limit", [0, 100, 2000, 4000])
def test_a_full_disk_keeps_the_last_checkpoint_and_nothing_else(tmp_path: Path, limit: int):
    state = STATE | {"weights": torch.ones(2000)}
    save_checkpoint(tmp_path, 2, write_policy, state)
    told = r"step-000004.*: cannot be written \(.+\); .*start again"
    with no_file_longer_than(limit), pytest.raises(MachineError, match=told):
        save_checkpoint(tmp_path, 4, write_policy, state)
    assert names(tmp_path / "checkpoints") == ["step-000002"]
    assert torch.equal(load_state(latest_checkpoint(tmp_path))["weights"], state["weights"])


KILLED = """
import sys
from pathlib import Path
import torch
from rl.runtime.checkpoint import save_checkpoint
from tests.rl.runtime.test_checkpoint import STATE, write_policy
for step in range(10**6):
    save_checkpoint(Path(sys.argv[1]), step, write_policy, STATE | {"weights": torch.full((20_000,), step)})
    print(step, flush=True)
"""


def test_a_run_killed_at_any_moment_has_a_whole_newest_checkpoint(tmp_path: Path):
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(20):
            last = int(process.stdout.readline())
            found = complete_checkpoints(tmp_path)[-1]  # at some moment of the next save
            state = load_state(found)
            assert state["step"] >= last and (state["weights"] == state["step"]).all() and (found / "policy").is_dir()
        process.kill()
    state = load_state(latest_checkpoint(tmp_path))
    assert (state["weights"] == state["step"]).all()
    save_checkpoint(tmp_path, 10**6 - 1, write_policy, STATE)
    assert not [name for name in names(tmp_path / "checkpoints") if name.startswith(".")]


def test_a_run_without_checkpoints_has_none(tmp_path: Path):
    with pytest.raises(CheckpointError, match="no checkpoints"):
        latest_checkpoint(tmp_path)
    assert checkpoint.KEEP == 2
