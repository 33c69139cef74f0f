"""Read the frames of an observation in a thread that can be left behind where the reading does not come back."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from threading import Lock, Semaphore

import numpy as np

from rl.runtime.threads import in_background


class FrameReading:
    """One reading. It waits for one of the slots that all readings share, so that few run at a time."""

    def __init__(self, read: Callable[[], list[np.ndarray]], slots: Semaphore):
        """Start a thread, which ends with the process.

        Args:
            read: Returns the frames. A network drive may keep it waiting without end.
            slots: As many as readings may run at a time.
        """
        self._read = read
        self._slots = slots
        self._lock = Lock()  # of the two below
        self._has_slot = False
        self._is_left = False
        self.frames: Future[list[np.ndarray]] = in_background(self._run)

    def leave(self) -> None:
        """Leave the reading behind: its slot is free for others at once, and its frames are dropped."""
        with self._lock:
            self._is_left = True
            self._free_slot()

    def _run(self) -> list[np.ndarray]:
        self._slots.acquire()
        with self._lock:
            self._has_slot = True
            if self._is_left:
                self._free_slot()
                raise CancelledError
        try:
            return self._read()
        finally:
            with self._lock:
                self._free_slot()

    def _free_slot(self) -> None:
        if self._has_slot:
            self._has_slot = False
            self._slots.release()
