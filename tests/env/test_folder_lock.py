"""One process writes to a folder at a time, and a dead one keeps nobody out."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from env.errors import MachineError
from env.folder_lock import lock_folder

HOLD = """
import sys, time
from pathlib import Path
from env.folder_lock import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    return process


def test_a_second_process_is_told_who_is_there(tmp_path: Path):
    with holder(tmp_path / "run") as first:
        told = pytest.raises(MachineError, match=rf"run: in use by process {first.pid} on \S+; wait until that")
        with told, lock_folder(tmp_path / "run"):
            raise AssertionError("both are in")
        first.kill()
    with lock_folder(tmp_path / "run"):
        pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_dead_process_keeps_nobody_out(tmp_path: Path, number: signal.Signals):
    with holder(tmp_path) as first:
        first.send_signal(number)
    told = pytest.raises(MachineError, match=f"in use by process {os.getpid()} on")
    with lock_folder(tmp_path), told, lock_folder(tmp_path):
        pass


def test_a_child_process_does_not_keep_the_lock(tmp_path: Path):
    with lock_folder(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        with lock_folder(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()


def test_locks_of_different_names_in_one_folder_do_not_meet(tmp_path: Path):
    with lock_folder(tmp_path, ".a.lock"), lock_folder(tmp_path, ".b.lock"):
        pass


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/none"])
def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path, place: str):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match=r"cannot be written \("), lock_folder(tmp_path / place):
        pass


def test_a_file_system_without_locks_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="has no locks; start no second process"), lock_folder(tmp_path):
        pass
