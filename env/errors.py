"""Exceptions of this program, for mistakes of the data and of our own. Mistakes of the policy are values (`Malformed`).

    VideoSegError
      DataError        a file, record or field of the user's data is not what it should be
      MachineError     the machine lacks what the command needs: space, a permission, a port, shared memory
      CheckpointError  a checkpoint is missing, of another shape, or cannot be resumed from
      EnvError         the environment was used in a way it does not allow (a programming mistake)

`configs.load.ConfigError` stands apart because `configs` lies below `env`.
Every message says what was expected, what came, and where to mend it.
"""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Callable
from functools import wraps

from configs.load import ConfigError
from configs.plain_text import MAX_MESSAGE, plain

_MOST = 700  # characters of each half of a DataError


class VideoSegError(Exception):
    """Base of all errors that this program raises on purpose."""


class DataError(VideoSegError):
    """Bad input data. `where` names the file, record and field. Names and values that fill pages are cut off."""

    def __init__(self, where: str, problem: str):
        where, problem = (text if len(text) <= _MOST else f"{text[:_MOST]}.." for text in (where, problem))
        super().__init__(where, problem)  # both in args, so that the error survives pickling through Ray
        self.where = where
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


class MachineError(VideoSegError):
    """The machine lacks what the command needs; the message names it and what to do."""


class CheckpointError(VideoSegError):
    """A checkpoint cannot be used; the message names the folder and the first offending entry."""


class EnvError(VideoSegError):
    """The environment was stepped after its end, or before its first observation."""


def command(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a command's `main`, so that what its user or the machine has caused ends it with one line and no traceback.

    Ctrl-C stops a local Ray and exits with 130, as a shell reports it.
    """

    @wraps(main)
    def run() -> None:
        try:
            main()
        except (VideoSegError, ConfigError) as error:
            raise SystemExit(f"error: {plain(str(error), MAX_MESSAGE)}") from None
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise SystemExit(f"error: {error.filename or 'the disk'}: {error.strerror}; free some space") from None
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends the process at once
            if ray := sys.modules.get("ray"):
                ray.shutdown()
            print("interrupted; what is finished is kept", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None

    return run


INTERRUPTED = 128 + signal.SIGINT
_FULL = (errno.ENOSPC, errno.EDQUOT)  # outside `env.files` only what libraries write by themselves, such as caches
