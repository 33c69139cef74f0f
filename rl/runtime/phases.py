"""Phases of a longer run such as the demo: each is a command in a process of its own, timed and recorded."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from env.errors import DataError
from env.files import write_json
from env.json_text import parse_json
from rl.runtime.memory import MemoryWatch

GRACE = 60.0  # seconds


@dataclass(frozen=True)
class PhaseCost:
    """Time and memory of one phase."""

    name: str
    seconds: float
    peak_bytes: int  # of all processes together


@dataclass(frozen=True)
class Phase:
    """One command of the run."""

    key: str  # in stages.json
    title: str
    command: list[str]  # arguments of the Python interpreter


class PhaseLog:
    """The file `<run>/stages.json`: which phases are done, and the time and memory of each."""

    def __init__(self, run_dir: Path):
        self.path = run_dir / "stages.json"
        self.rows = _read_rows(self.path) if self.path.exists() else {}

    def is_done(self, key: str) -> bool:
        """Return whether a phase has ended without an error."""
        return bool(self.rows.get(key, {}).get("done"))

    def add(self, phase: Phase, seconds: float, peak_bytes: int, done: bool) -> None:
        """Record an attempt at a phase; the seconds of several attempts add up.

        Args:
            phase: The phase.
            seconds: Time of this attempt.
            peak_bytes: Memory of all processes together.
            done: Whether it ended without an error.
        """
        old = self.rows.get(phase.key, {"seconds": 0.0, "peak_bytes": 0})
        self.rows[phase.key] = {
            "name": phase.title,
            "seconds": old["seconds"] + seconds,
            "peak_bytes": max(old["peak_bytes"], peak_bytes),
            "done": done,
        }
        write_json(self.path, self.rows)

    def costs(self) -> list[PhaseCost]:
        """Return time and memory of all phases, in the order of their first attempts."""
        return [PhaseCost(row["name"], row["seconds"], row["peak_bytes"]) for row in self.rows.values()]


def _read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of `stages.json` by key. DataError where it is damaged."""
    try:
        rows = parse_json(path.read_bytes())
        for row in rows.values():
            _ = str(row["name"]), float(row["seconds"]), int(row["peak_bytes"]), bool(row["done"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            str(path), f"expected name, seconds, peak_bytes and done of every stage ({error}); remove the file"
        ) from error
    return rows


def run_phase(phase: Phase, command: Sequence[str], log: PhaseLog, watch: MemoryWatch) -> None:
    """Run one phase to its end and record its time and memory.

    Args:
        phase: The phase.
        command: Arguments of the Python interpreter: `phase.command`, perhaps with `--resume`.
        log: Receives the record, also when the phase fails.
        watch: Measures the memory of all processes.

    Raises:
        SystemExit: The phase failed; with its exit code.
    """
    begin = time.monotonic()
    watch.take_peak()
    code = -1
    try:
        code = _run([sys.executable, *command])
    finally:
        log.add(phase, time.monotonic() - begin, watch.take_peak(), done=code == 0)
    if code != 0:
        print(
            f"demo stopped: {phase.title!r} failed with exit code {code}: python {' '.join(command)}", file=sys.stderr
        )
        raise SystemExit(code if code > 0 else 128 - code)  # a negative code is the signal that ended it


def _run(command: Sequence[str]) -> int:
    """Run a command and return its exit code. Ctrl-C reaches it too, so it gets the time to end what it has started."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait(GRACE)
            raise
        finally:
            process.kill()
