"""The record of finished stages: damaged ones are named, and Ctrl-C leaves no stage running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from env.errors import DataError
from rl.runtime.phases import Phase, PhaseLog

ROW = '"name": "A", "seconds": 1.0, "peak_bytes": 3, "done": true'


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"a": 3}', '{"a": {"name": "A"}}', f'{{"a": {{{ROW}}}, "a": {{{ROW}}}}}']
)
def test_a_damaged_record_is_one_sentence(tmp_path: Path, content: str):
    (tmp_path / "stages.json").write_text(content)
    with pytest.raises(DataError, match=r"stages\.json: expected .*; remove the file"):
        PhaseLog(tmp_path)


def test_a_whole_record_is_read(tmp_path: Path):
    log = PhaseLog(tmp_path)
    log.add(Phase("a", "A", []), 1.0, 3, done=True)
    assert PhaseLog(tmp_path).is_done("a") and not PhaseLog(tmp_path).is_done("b")


STAGE = """
import time
print('stage', flush=True)
try:
    time.sleep(60)
finally:
    time.sleep(1)
    print('cleaned up', flush=True)
"""
PROGRAM = """
import sys
from pathlib import Path
from env.errors import command
from rl.runtime.memory import MemoryWatch
from rl.runtime.phases import Phase, PhaseLog, run_phase
@command
def main():
    stage = Phase("a", "A", ["-c", sys.argv[1]])
    with MemoryWatch() as watch:
        run_phase(stage, stage.command, PhaseLog(Path(sys.argv[2])), watch)
main()
"""


def test_ctrl_c_lets_the_stage_end_first(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, STAGE, str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "stage\n"
    children = psutil.Process(process.pid).children(recursive=True)
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert out == "cleaned up\n" and process.returncode == 130
    assert not [child for child in children if child.is_running()]
    assert not PhaseLog(tmp_path).is_done("a")
