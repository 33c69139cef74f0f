"""Stages of a longer run: each is a command of its own, timed and recorded, and skipped once it is done."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl.runtime.memory import MemoryWatch


@dataclass(frozen=True)
class Phase:
    """One stage of the run and what it took."""

    name: str
    seconds: float
    peak_bytes: int  # of all processes together


@dataclass(frozen=True)
class Stage:
    """One process of the demo."""

    key: str  # in stages.json
    title: str
    command: list[str]  # arguments of the Python interpreter


class Ledger:
    """`<run>/stages.json`: which stages are done, what each took."""

    def __init__(self, run_dir: Path):
        self.path = run_dir / "stages.json"
        self.rows: dict[str, dict[str, Any]] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def is_done(self, key: str) -> bool:
        return bool(self.rows.get(key, {}).get("done"))

    def add(self, stage: Stage, seconds: float, peak_bytes: int, done: bool) -> None:
        """Time of an earlier, broken-off attempt is kept in the sum."""
        old = self.rows.get(stage.key, {"seconds": 0.0, "peak_bytes": 0})
        self.rows[stage.key] = {
            "name": stage.title,
            "seconds": old["seconds"] + seconds,
            "peak_bytes": max(old["peak_bytes"], peak_bytes),
            "done": done,
        }
        self.path.write_text(json.dumps(self.rows, indent=1))

    def phases(self) -> list[Phase]:
        return [Phase(row["name"], row["seconds"], row["peak_bytes"]) for row in self.rows.values()]


def run_stage(stage: Stage, command: Sequence[str], ledger: Ledger, watch: MemoryWatch) -> None:
    """Run one stage to its end and write down what it took. SystemExit with its exit code where it fails."""
    begin = time.monotonic()
    watch.take_part()
    code = -1
    try:
        code = subprocess.run([sys.executable, *command], check=False).returncode
    finally:
        ledger.add(stage, time.monotonic() - begin, watch.take_part(), done=code == 0)
    if code != 0:
        print(
            f"demo stopped: {stage.title!r} failed with exit code {code}: python {' '.join(command)}", file=sys.stderr
        )
        raise SystemExit(code if code > 0 else 128 - code)  # a negative code is the signal that ended it
