"""Read JSON from untrusted files: every fault is a DataError that names file and field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from env.errors import DataError
from env.json_text import parse_json

MAX_BYTES = 1 << 30  # of a file that is read into memory


def read_json(path: Path) -> Any:
    """Return the parsed file. DataError if it is missing, too large or no JSON."""
    if not path.is_file():  # a pipe or a folder neither
        raise DataError(str(path), "expected a JSON file, found none")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(str(path), f"expected at most {MAX_BYTES} bytes of metadata")
        return parse_json(path.read_bytes())
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(str(path), f"expected JSON, found something else ({error})") from error


def field(record: Any, name: str, kind: type | tuple[type, ...], where: str) -> Any:
    """Return `record[name]` after checking its type.

    Args:
        record: a parsed JSON value, which should be an object.
        name: of the field.
        kind: the expected type or types; a bool does not count as an int.
        where: file and record, for errors.

    Returns:
        The value.

    Raises:
        DataError: the record is no object, or the field is missing or has another type.
    """
    if not isinstance(record, dict):
        raise DataError(where, f"expected an object, found {type(record).__name__}")
    if name not in record:
        raise DataError(f"{where}.{name}", f"the field is missing; found {', '.join(sorted(record)) or 'none'}")
    value = record[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = kind.__name__ if isinstance(kind, type) else " or ".join(k.__name__ for k in kind)
        raise DataError(f"{where}.{name}", f"expected {wanted}, found {type(value).__name__} {str(value)[:60]!r}")
    return value


def all_of(record: Any, name: str, kind: type | tuple[type, ...], where: str) -> tuple[Any, ...]:
    """Return the list `record[name]` as a tuple, after checking the type of its entries.

    Args:
        record: a parsed JSON value, which should be an object.
        name: of the field.
        kind: the expected type or types of the entries: str, int or both.
        where: file and record, for errors.

    Returns:
        The entries.

    Raises:
        DataError: the field is no list, or an entry has another type.
    """
    values = field(record, name, list, where)
    for i, value in enumerate(values):
        if not isinstance(value, kind) or isinstance(value, bool):
            wanted = "a string" if kind is str else "a number" if kind is int else "a number or a string"
            raise DataError(f"{where}.{name}[{i}]", f"expected {wanted}, found {str(value)[:60]!r}")
    return tuple(values)
