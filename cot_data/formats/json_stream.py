"""Read the members of a huge JSON object one at a time: memory holds only the largest member, not the whole file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import Any, TextIO

from env.errors import DataError
from env.json_text import DECODER, check_surrogates, refuse_mark

_CHUNK = 1 << 22  # characters read at once
MAX_MEMBER = 1 << 27  # characters of one key or value; a broken file is reported after at most that many
MAX_KEYS = 1 << 26  # characters of all keys, which are kept to find one that stands twice
_SPACE = re.compile(r"[ \t\n\r]*")


def read_members(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield each (key, value) of the object in a file, in file order. DataError if it is missing or no JSON object.

    The error is raised when the reader reaches the fault, after all members before it.
    """
    if not path.is_file():
        raise DataError(str(path), "expected a JSON file, found none")
    try:
        with open(path, encoding="utf-8") as file:
            yield from _Members(path, file)
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({error.strerror})") from error
    except RecursionError as error:
        raise DataError(str(path), "expected JSON, found something else (nested too deeply)") from error
    except ValueError as error:
        raise DataError(str(path), f"expected JSON, found something else ({error})") from error


class _Members:
    """Iterates over the members with a window on the text, which moves as members are consumed."""

    def __init__(self, path: Path, file: TextIO):
        self._path = path
        self._file = file
        self._text = ""
        self._at = 0
        self._keys: set[str] = set()
        self._keys_size = 0

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        char = self._next()
        refuse_mark(self._text)
        if char != "{":
            raise DataError(str(self._path), f"expected an object of masks by anno_id, found {char!r} before it")
        self._at += 1
        char = self._next()
        while char != "}":
            if char != '"':
                raise ValueError(f"expected a key in quotes, found {char!r}")
            key = self._value(":")
            self._keep_key(key)
            self._at += 1
            value = self._value(",}")
            yield key, value
            char = self._next()
            if char == ",":
                self._at += 1
                char = self._next().replace("}", "} after a comma")
        self._at += 1
        if char := self._next():
            raise ValueError(f"expected nothing after the object, found {char!r}")

    def _keep_key(self, key: str) -> None:
        if key in self._keys:
            raise ValueError(f"the key {key[:60]!r} stands twice in one object")
        self._keys.add(key)
        self._keys_size += len(key)
        if self._keys_size > MAX_KEYS:
            raise ValueError(f"its keys have more than {MAX_KEYS} characters")

    def _next(self) -> str:
        """The next character that is no white space, without consuming it; "" at the end of the file."""
        while True:
            self._at = _end_of_space(self._text, self._at)
            if self._at < len(self._text) or not self._read(_CHUNK):
                return self._text[self._at : self._at + 1]

    def _read(self, size: int) -> bool:
        more = self._file.read(size)
        self._text, self._at = self._text[self._at :] + more, 0
        return bool(more)

    def _value(self, ends: str) -> Any:
        """Parse a value. One of `ends` must follow it: a number at the end of a chunk may continue in the next."""
        self._next()
        size = _CHUNK
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
                end = _end_of_space(self._text, end)
                if end < len(self._text):
                    if self._text[end] not in ends:
                        raise JSONDecodeError(f"expected one of {ends}", self._text, end)
                    check_surrogates(value, self._text, self._at, end)
                    self._at = end
                    return value
                problem = JSONDecodeError("the object has no end", self._text, end)
            except JSONDecodeError as error:
                problem = error
            if len(self._text) - self._at > MAX_MEMBER or not self._read(size):
                raise problem
            size *= 2


def _end_of_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None  # the pattern matches the empty string too
    return found.end()
