"""Parse JSON from outside strictly: what two readers would read differently is an error.

A key that stands twice, NaN and Infinity, numbers beyond a float's range, integers of more than 4,300 digits, nesting
too deep for the parser, a byte order mark, and lone surrogates, which no file can hold, raise ValueError.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text. ValueError with the reason where it is not strict JSON."""
    text = text if isinstance(text, str) else text.decode("utf-8")
    refuse_mark(text)
    try:
        value = DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    check_surrogates(value, text)
    return value


def refuse_mark(text: str) -> None:
    """Raise ValueError if a file's text begins with a byte order mark."""
    if text.startswith("\ufeff"):
        raise ValueError("it begins with a byte order mark; save it as UTF-8 without one")


def check_surrogates(value: Any, text: str, start: int = 0, end: int | None = None) -> None:
    """Raise ValueError if a parsed value has half of a surrogate pair, which no UTF-8 file can hold.

    Args:
        value: the value.
        text: what it was parsed from; only an escape sequence in it can be the cause, so most values are not searched.
        start: where the value begins in `text`.
        end: where it ends; None for the end of the text.
    """
    end = len(text) if end is None else end
    if text.find("\\u", start, end) < 0 or not _SURROGATE.search(text, start, end):
        return
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("it has half of a surrogate pair (such as \\ud800), which is no character") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's members. ValueError where a key stands twice."""
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice[:60]!r} stands twice in one object")
    return members


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _float(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
