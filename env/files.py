"""Write files so that a reader finds the old content or the new, whole, whatever ends the writer.

Every file of a run, a data set or a checkpoint is written here: to a temporary file beside it, which is flushed to disk
and renamed, and then the folder is flushed too. `append_lines` cuts off the unfinished last line of a writer that was
killed, appends whole lines and flushes them. A full disk, a missing permission and the like are a MachineError, and
nothing half-written stays.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from env.errors import MachineError

PARTIAL = ".partial"  # suffix of what is not finished
ADVICE = {
    errno.ENOSPC: "free some space and start again",
    errno.EDQUOT: "free some space of your quota and start again",
    errno.EACCES: "name a folder that you may write to",
    errno.EPERM: "name a folder that you may write to",
    errno.EROFS: "name a folder that can be written to",
    errno.ENOTDIR: "a part of the path is a file; name another",
    errno.EEXIST: "a part of the path is a file; name another",
    errno.EISDIR: "it is a folder; name another path",
}


@contextmanager
def replace_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file for writing bytes; when the block ends without an error, it replaces `path`.

    Raises:
        MachineError: It cannot be written; `path` is as before.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    with machine_errors(path):
        try:
            with open(draft, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
            sync_folder(path.parent)
        finally:
            draft.unlink(missing_ok=True)


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Make an empty temporary folder beside `path`; when the block ends without an error, it replaces `path`.

    Everything in it is flushed to disk before. A process that is killed between the two renames leaves the former
    folder as `<name>.former`, which the next call for the same path puts back or removes.

    Raises:
        MachineError: It cannot be written; `path` is as before.
    """
    draft, former = path.with_name(path.name + PARTIAL), path.with_name(path.name + ".former")
    with machine_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _restore(path, former)
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            yield draft
            _sync_tree(draft)
            if path.exists():
                os.replace(path, former)
            os.replace(draft, path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Replace a file by a text in UTF-8. MachineError where it cannot be written."""
    with replace_file(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Replace a file by a JSON value. ValueError where a number is not finite, which JSON has no word for."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Cut off the unfinished line of a killed writer, append whole lines, and flush them to disk.

    Args:
        path: The file; it is made where it is missing.
        lines: Each with its newline at the end.

    Raises:
        MachineError: They cannot be written. Earlier lines are kept, and the next call cuts off what is unfinished.
    """
    is_new = not path.exists()
    with machine_errors(path), open(path, "ab") as file:
        whole = _whole_lines(path)
        if whole != file.tell():
            file.truncate(whole)
        file.write("".join(lines).encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_folder(path.parent)


def read_lines(path: Path, size: int | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield (place, line) of a file of lines; nothing where there is no file.

    Args:
        path: The file.
        size: Only the first so many bytes; None takes all that are there at the call.

    Returns:
        `path:number` and the line with its newline. An unfinished last line, whose writer was killed, is left out with
        a warning.
    """
    if not path.exists():
        return
    left = path.stat().st_size if size is None else size
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            left -= len(line)
            if left < 0:
                return
            if not line.endswith(b"\n"):
                warnings.warn(
                    f"{path}:{number}: left out an unfinished last line (its writer was killed)", stacklevel=3
                )
                return
            yield f"{path}:{number}", line


def keep_lines(path: Path, stays: Callable[[str, bytes], bool]) -> None:
    """Replace a file of lines by those for which `stays(place, line)` is true."""
    if path.exists():
        with replace_file(path) as file:
            file.writelines(line for place, line in read_lines(path) if stays(place, line))


@contextmanager
def machine_errors(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a MachineError that names the path and what to do."""
    try:
        yield
    except OSError as error:
        advice = ADVICE.get(error.errno or 0, "see that it can be written, and start again")
        raise MachineError(f"{path}: cannot be written ({error.strerror or error}); {advice}") from error


def sync_folder(folder: Path) -> None:
    """Flush a folder to disk, so that a new or renamed file survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _restore(path: Path, former: Path) -> None:
    """Finish the exchange of folders that a killed process left half done."""
    if former.exists() and not path.exists():
        os.replace(former, path)
    shutil.rmtree(former, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder` to disk."""
    for root, _, names in os.walk(folder):
        for name in names:
            sync_folder(Path(root, name))  # fsync of a handle for reading flushes the file's data as well
        sync_folder(Path(root))


def _whole_lines(path: Path) -> int:
    """Return the number of bytes up to and including the last newline."""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - (1 << 16))
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0
