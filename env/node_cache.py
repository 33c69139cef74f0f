"""Frames that the processes of one node share: a worker decodes and resizes them, the learner reads the result."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Hashable
from pathlib import Path

import numpy as np

from env.errors import MachineError
from env.files import machine_errors

SHARED_MEMORY = Path("/dev/shm")
STALE = 86400.0  # seconds without an addition after which a cache counts as left behind
SWEEPS = 16  # a process checks the bound whenever it has added one sixteenth of it


class NodeCache:
    """Arrays by key, as files in shared memory, for any number of processes; the least recently used are dropped.

    The files take at most `max_bytes`, plus what each process may add between two checks, a sixteenth of that. On a
    node with less shared memory, such as many containers, the bound is half of what is free.
    """

    def __init__(self, name: str, max_bytes: int, parent: Path = SHARED_MEMORY):
        """Open the cache of that name, and free the caches that killed runs have left behind.

        Args:
            name: Processes of one node that give the same name share one cache.
            max_bytes: Most bytes that are kept.
            parent: Folder in shared memory.

        Raises:
            MachineError: The cache's folder cannot be made, or others than this user can read or write it.
        """
        mine = f"videoseg-{os.getuid()}"
        for left in parent.glob(f"{mine}-*"):
            if _is_stale(left):
                shutil.rmtree(left, ignore_errors=True)
        self.folder = parent / f"{mine}-{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}"
        with machine_errors(self.folder):
            self.folder.mkdir(mode=0o700, exist_ok=True)
            _require_own(self.folder)
        self.max_bytes = min(max_bytes, shutil.disk_usage(parent).free // 2)
        self._added = 0

    def get(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the array under `key`; if there is none, call `make` and keep its result."""
        path = self.folder / hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()
        try:
            os.utime(path)
            return np.load(path)  # not mapped: a process may hold 65,530 mappings, and thousands of small frames
        except FileNotFoundError:
            array = make()
            self._keep(path, array)
            return array

    def clear(self) -> None:
        """Free the memory."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _keep(self, path: Path, array: np.ndarray) -> None:
        if array.nbytes > self.max_bytes // SWEEPS:
            return
        draft = path.with_suffix(f".{os.getpid()}")
        try:
            with draft.open("wb") as file:
                np.save(file, array)
            draft.replace(path)  # others see all of it or nothing
        except OSError as error:
            draft.unlink(missing_ok=True)
            if error.errno not in (errno.ENOSPC, errno.ENOENT):  # full, or cleared meanwhile: then it is not kept
                raise
        self._added += array.nbytes
        if self._added >= self.max_bytes // SWEEPS:
            self._sweep()

    def _sweep(self) -> None:
        """Delete the least recently used files until the bound holds."""
        self._added = 0
        files = []
        for path in self.folder.glob("*"):
            try:
                status = path.stat()
            except FileNotFoundError:  # by another process
                continue
            files.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size


def _is_stale(folder: Path) -> bool:
    """Return whether a cache of this user has had no addition for long."""
    try:
        status = folder.lstat()
    except FileNotFoundError:  # freed by another process
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_mtime < time.time() - STALE


def _require_own(folder: Path) -> None:
    """Raise a MachineError unless the folder is one of this user alone: what lies in it is taken for frames."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        found = "a link or a file"
    elif status.st_uid != os.getuid():
        found = f"one of user {status.st_uid}"
    elif stat.S_IMODE(status.st_mode) != 0o700:
        found = f"one with mode {stat.S_IMODE(status.st_mode):o}"
    else:
        return
    raise MachineError(
        f"{folder}: expected a folder of this user alone (mode 700) for the node's cache of frames, found {found}; "
        "remove it, or set grpo.node_cache_gb=0"
    )
