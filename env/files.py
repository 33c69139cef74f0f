"""Write files so that a reader finds the old content or the new, whole, whatever ends the writer.

Every file of a run, a data set or a checkpoint is written here: to a temporary file beside it, which is flushed to disk
and renamed, and then the folder is flushed too. `append_lines` cuts off the unfinished last line of a writer that was
killed, appends whole lines and flushes them. A full disk, a missing permission and the like are a MachineError, and
nothing half-written stays. What a killed writer leaves behind has a hidden name, and a later write removes it.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from env.errors import MachineError, VideoSegError

PARTIAL = ".partial"  # suffix of what is not finished
FORMER = ".former"  # suffix of a folder that is being replaced
STALE = 3600.0  # seconds without a change after which a temporary file counts as left by a killed writer
ADVICE = {
    errno.ENOSPC: "free some space and start again",
    errno.EDQUOT: "free some space of your quota and start again",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f) and start again",
    errno.EACCES: "name a folder that you may write to",
    errno.EPERM: "name a folder that you may write to",
    errno.EROFS: "name a folder that can be written to",
    errno.ENOTDIR: "a part of the path is a file; name another",
    errno.EEXIST: "a part of the path is a file; name another",
    errno.EISDIR: "it is a folder; name another path",
}
# Writers in other languages raise errors of their own: those of Rust (safetensors, tokenizers) end in the number of the
# error, torch's name only its file format.
_RUST = re.compile(r"\(os error (\d+)\)")
_TORCH = re.compile(r"inline_container|PytorchStreamWriter")


@contextmanager
def replace_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file for writing bytes; when the block ends without an error, it replaces `path`.

    Raises:
        MachineError: It cannot be written; `path` is as before.
    """
    with replace_path(path) as draft, open(draft, "wb") as file:
        yield file


@contextmanager
def replace_path(path: Path) -> Iterator[Path]:
    """Name a temporary file, with the suffix of `path`, for a library to write; after the block it replaces `path`.

    Raises:
        MachineError: It cannot be written; `path` is as before.
    """
    draft = path.with_name(f".{path.stem}.{os.getpid()}{PARTIAL}{path.suffix}")
    with machine_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        for left in path.parent.glob(f".{glob.escape(path.stem)}.*{PARTIAL}{path.suffix}"):
            with suppress(OSError):  # another process may have removed it
                if left.stat().st_mtime < time.time() - STALE:
                    left.unlink()
        try:
            yield draft
            _sync(draft)
            os.replace(draft, path)
            _sync(path.parent)
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Make an empty temporary folder beside `path`; when the block ends without an error, it replaces `path`.

    Everything in it is flushed to disk before. A process that is killed between the two renames leaves the former
    folder under a hidden name; `restore_folder`, or the next call for the same path, puts it back.

    Raises:
        MachineError: It cannot be written; `path` is as before.
    """
    path = path.resolve()  # a link to a folder stays a link
    draft, former = _hidden(path, PARTIAL), _hidden(path, FORMER)
    with machine_errors(path):
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        restore_folder(path)
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            yield draft
            _sync_tree(draft)
            if path.exists():
                os.replace(path, former)
            os.replace(draft, path)
            _sync(path.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            restore_folder(path)


def restore_folder(path: Path) -> None:
    """Finish the exchange that a killed `replace_folder` of `path` left half done."""
    former = _hidden(path, FORMER)
    if former.exists() and not path.exists():
        os.replace(former, path)
    shutil.rmtree(former, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder at once for every reader: it is renamed before its files go one by one."""
    former = _hidden(path, FORMER)
    shutil.rmtree(former, ignore_errors=True)
    with machine_errors(path):
        os.replace(path, former)
    shutil.rmtree(former, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file. MachineError where it cannot be written."""
    with replace_file(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Replace a file by a text in UTF-8. MachineError where it cannot be written."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Replace a file by a JSON value. ValueError where a number is not finite, which JSON has no word for."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Cut off the unfinished line of a killed writer, append whole lines, and flush them to disk.

    Args:
        path: The file; it is made where it is missing.
        lines: Each with its newline at the end.

    Raises:
        MachineError: They cannot be written; the file ends as before.
    """
    append_bytes(path, "".join(lines).encode("utf-8"), _whole_lines(path))


def append_bytes(path: Path, content: bytes, at: int | None = None) -> None:
    """Append to a file and flush it to disk.

    Args:
        path: The file; it is made where it is missing.
        content: What is added.
        at: Number of bytes to keep of the file; None keeps all.

    Raises:
        MachineError: It cannot be written; the file ends as before.
    """
    is_new = not path.exists()
    with machine_errors(path), open(path, "ab", buffering=0) as file:
        end = file.tell() if at is None else at
        file.truncate(end)
        try:
            left = memoryview(content)
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise
    if is_new:
        _sync(path.parent)


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
    """Turn what the system refuses inside the block into a MachineError that names the path and what to do."""
    try:
        yield
    except VideoSegError:
        raise
    except Exception as error:  # libraries in other languages have no common class of errors
        reason = _refusal(error)
        if reason is None:
            raise
        number, text = reason
        advice = ADVICE.get(number, "see that there is space and that it can be written, and start again")
        raise MachineError(f"{path}: cannot be written ({text}); {advice}") from error


def _refusal(error: Exception) -> tuple[int, str] | None:
    """Return (number, text) of the system's error behind `error`; None if that is not one of the system."""
    if isinstance(error, OSError):
        return error.errno or 0, error.strerror or str(error)
    if found := _RUST.search(str(error)):
        return int(found[1]), os.strerror(int(found[1]))
    return (0, "PyTorch could not write all of it") if _TORCH.search(str(error)) else None


def make_folder(path: Path) -> None:
    """Make a folder and those above it where they are missing. MachineError where that is refused."""
    with machine_errors(path):
        path.mkdir(parents=True, exist_ok=True)


def sync_all() -> None:
    """Flush everything that was written to disk: for many files at once, before the one that declares them whole."""
    os.sync()


def _sync(path: Path) -> None:
    """Flush a file or a folder to disk; a new or renamed file survives a power cut once its folder is flushed."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise  # some network file systems flush files only
    finally:
        os.close(handle)


def _hidden(path: Path, suffix: str) -> Path:
    """Return a name beside `path` that no pattern for `path` matches."""
    return path.with_name(f".{path.name}{suffix}")


def _sync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder` to disk."""
    for root, _, names in os.walk(folder):
        for name in names:
            _sync(Path(root, name))
        _sync(Path(root))


def _whole_lines(path: Path) -> int:
    """Return the number of bytes up to and including the last newline; 0 where there is no file."""
    if not path.is_file():
        return 0
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
