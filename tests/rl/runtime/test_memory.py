"""Peak memory: children and daemons outside the process tree are counted, unrelated processes are not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from rl.runtime.memory import MARKER, MemoryWatch

HOLD = "import time; block = bytearray(b'x') * (120 << 20); print('ready', flush=True); time.sleep(60)"
# Leaves its session and its parent, as Ray's daemons can; prints its pid.
LEAVE = f"""
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {HOLD!r}], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    text=True, start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
os._exit(0)
"""


@pytest.fixture(autouse=True)
def run_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARKER, f"test-{time.monotonic_ns()}")


def test_a_child_is_counted_while_it_runs():
    with MemoryWatch(seconds=0.05) as watch:
        before = watch.take_peak()
        with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            child.stdout.readline()
            during = watch.take_peak()
            child.kill()
        watch.take_peak()
        after = watch.take_peak()
    assert during - before > 100 << 20
    assert after - before < 60 << 20
    assert watch.peak_bytes >= during


def test_a_daemon_outside_the_tree_is_found_by_its_marker():
    watch = MemoryWatch()
    pid = int(subprocess.run([sys.executable, "-c", LEAVE], capture_output=True, text=True, check=True).stdout)
    try:
        assert pid not in {child.pid for child in psutil.Process().children(recursive=True)}
        assert pid in {process.pid for process in watch.processes()}
        assert os.getpid() in {process.pid for process in watch.processes()}
    finally:
        os.kill(pid, signal.SIGKILL)


def test_an_unrelated_process_is_not_counted():
    watch = MemoryWatch()
    environment = {**os.environ, MARKER: "another run"}
    done = subprocess.run([sys.executable, "-c", LEAVE], capture_output=True, text=True, check=True, env=environment)
    pid = int(done.stdout)
    try:
        assert pid not in {process.pid for process in watch.processes()}
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="left out: only Linux reports PSS")
def test_linux_reports_pss():
    assert MemoryWatch().unit == "PSS"
