"""Peak memory of all processes of a run together, sampled by a thread. No torch."""

from __future__ import annotations

import os
import threading
import uuid
from types import TracebackType

import psutil

MARKER = "VIDEOSEG_RUN_ID"  # environment variable that every process of a run inherits


class MemoryWatch:
    """A thread that samples the memory of this process and of all processes it starts, about once a second.

    Processes are found as descendants, and by `MARKER` in their environment, which daemons outside the process tree
    (Ray's) still have. `unit` is PSS where the system reports it (Linux: a shared page is divided among its users),
    else RSS (a shared page counts in every process, so that the figure is too high rather than too low).

    >>> with MemoryWatch() as watch: subprocess.run(...)
    >>> watch.peak_bytes
    """

    def __init__(self, seconds: float = 1.0):
        self.seconds = seconds
        self.peak_bytes = 0
        self.unit = "PSS" if _has_pss() else "RSS"
        self._phase_bytes = 0
        self._run_id = os.environ.setdefault(MARKER, uuid.uuid4().hex)
        self._marked: dict[psutil.Process, bool] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def take_peak(self) -> int:
        """Return the peak in bytes since the last call, or since the start: the peak of one phase of several."""
        peak, self._phase_bytes = max(self._phase_bytes, self._sample()), 0
        return peak

    def processes(self) -> list[psutil.Process]:
        """Return all processes of the run that are alive now, including this one."""
        alive = {process.pid: process for process in psutil.process_iter()}
        children: dict[int, list[int]] = {}
        for process in alive.values():
            try:
                children.setdefault(process.ppid(), []).append(process.pid)
            except psutil.Error:  # gone since it was listed
                continue
        found: set[int] = set()
        waiting = [os.getpid(), *(pid for pid, process in alive.items() if self._is_marked(process))]
        while waiting:
            pid = waiting.pop()
            if pid in alive and pid not in found:
                found.add(pid)
                waiting += children.get(pid, [])
        return [alive[pid] for pid in sorted(found)]

    def _watch(self) -> None:
        while True:
            self._sample()
            if self._stop.wait(self.seconds):
                return

    def _sample(self) -> int:
        total = sum(_bytes_of(process, self.unit) for process in self.processes())
        self.peak_bytes = max(self.peak_bytes, total)
        self._phase_bytes = max(self._phase_bytes, total)
        return total

    def _is_marked(self, process: psutil.Process) -> bool:
        """Return whether a process has the marker. Read once: the environment of its start does not change."""
        if process not in self._marked:  # equal by pid and start time
            try:
                self._marked[process] = process.environ().get(MARKER) == self._run_id
            except (psutil.Error, OSError):  # gone, or another user's
                self._marked[process] = False
        return self._marked[process]


def _has_pss() -> bool:
    try:
        return "pss" in psutil.Process().memory_full_info()._fields
    except psutil.Error:
        return False


def _bytes_of(process: psutil.Process, unit: str) -> int:
    """Return the memory of a process: 0 if it has ended, its RSS if its PSS may not be read."""
    try:
        if unit == "PSS":
            return process.memory_full_info().pss
        return process.memory_info().rss
    except psutil.AccessDenied:
        return process.memory_info().rss
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return 0
