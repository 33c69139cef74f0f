"""Damaged forms of a JSON value: each member left out, and each of another type or out of range."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

OTHERS: list[Any] = [None, True, -1, 2**62, 10**4000, 0.5, "", "x", "\x1b[31m../..\x00", [], [[]], {}, {"a": 1}, [None]]


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every member below a JSON value."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield (*above, key)
        yield from places(member, (*above, key))


def damaged(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield (what was done, the value) for every member left out, and replaced by each of `OTHERS`."""
    for path in places(value):
        for number in range(len(OTHERS) + 1):
            made = copy.deepcopy(value)
            holder = made
            for key in path[:-1]:
                holder = holder[key]
            if number == len(OTHERS):
                del holder[path[-1]]
                yield f"{path} left out", made
            else:
                holder[path[-1]] = copy.deepcopy(OTHERS[number])
                yield f"{path} = {OTHERS[number]!r:.40}", made


def truncated(data: bytes) -> Iterator[bytes]:
    """Yield the data cut off at every tenth."""
    for tenth in range(10):
        yield data[: len(data) * tenth // 10]
