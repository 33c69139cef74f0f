"""Check names from outside: a name of a video, an expression or a frame becomes part of a path and of a task id.

The id of a task is `<data set>/<video>/<expression>`. The name of a video may hold slashes; no other name may, so that
two tasks never share an id.
"""

from __future__ import annotations

import re

from env.errors import DataError

MAX_NAME = 255  # bytes of a name in a file system
# Control characters, line separators, direction overrides, and halves of surrogate pairs
_HIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def check_name(name: str, where: str) -> None:
    """Raise a DataError unless a name is safe as one part of a path; `where` names its file and record."""
    if "/" in name:
        raise DataError(where, f"expected a name without a slash, found {name[:80]!r}")
    check_path(name, where)


def check_path(path: str, where: str) -> None:
    """Raise a DataError unless a relative path is safe and written in one way only.

    It must not leave its folder, and have no empty part, no part ".", no backslash and no control character.
    """
    parts = path.split("/")
    if not path or path.startswith("/") or ".." in parts or "\\" in path:
        raise DataError(where, f"the path {path[:200]!r} leaves the data root")
    if "" in parts or "." in parts:
        raise DataError(where, f'expected a name without empty parts and parts ".", found {path[:80]!r}')
    if _HIDDEN.search(path):
        raise DataError(where, f"expected a name without control characters, found {path[:80]!r}")
    if any(len(part.encode("utf-8")) > MAX_NAME for part in parts):
        raise DataError(where, f"expected names of at most {MAX_NAME} bytes, found {path[:80]!r}..")
