"""Open only regular files: a FIFO, a socket or a device in a data folder is an error instead of an endless wait."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from env.errors import DataError

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def require_regular(path: Path) -> int:
    """Return the size in bytes of a regular file, which a link may lead to.

    Raises:
        FileNotFoundError: There is nothing.
        DataError: It is a FIFO, a socket, a device or a folder.
        OSError: The path cannot be read.
    """
    return _size(path, os.stat(path))


def read_regular(path: Path, most_bytes: int) -> bytes:
    """Return the content of a regular file of at most `most_bytes` bytes; raises like `require_regular`."""
    require_regular(path)  # opening some devices has effects of its own
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a FIFO waits for a writer otherwise
    with open(handle, "rb") as file:
        size = _size(path, os.fstat(handle))  # once more: somebody may have exchanged the file
        if size > most_bytes:
            raise DataError(str(path), f"expected at most {most_bytes} bytes, found {size}")
        return file.read(most_bytes)


def _size(path: Path, status: os.stat_result) -> int:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise DataError(str(path), f"expected a regular file, found {kind}; take it out of the folder")
    return status.st_size
