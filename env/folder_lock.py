"""One writer at a time in a folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from env.errors import MachineError
from env.files import machine_errors, make_folder

NAME = ".lock"


@contextmanager
def lock_folder(folder: Path, name: str = NAME) -> Iterator[None]:
    """Make the folder where it is missing and keep all other processes that lock it out while the block runs.

    The system frees the lock of a process that has ended; the file stays. Child processes do not inherit it.

    Args:
        folder: What only one process may write to.
        name: Of the file in it that is locked.

    Raises:
        MachineError: Another process has the lock, or the folder cannot be written to.
    """
    make_folder(folder)
    path = folder / name
    with machine_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with machine_errors(path):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.read(handle, 200).decode("utf-8", "replace").strip() or "another process"
                raise MachineError(
                    f"{folder}: in use by {owner}; wait until that has ended, or name another folder"
                ) from None
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
                    raise
                warnings.warn(f"{path}: this file system has no locks; start no second process here", stacklevel=3)
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            os.fsync(handle)
        yield
    finally:
        os.close(handle)
