"""Read a `.pkl` of masks without running code from it: it may have plain containers, strings and numbers only.

A pickle is a program that can call any function it names. This reader allows only the one name that old protocols need
for bytes. It refuses a file with an object of any other class before that class is imported.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from env.errors import DataError

MAX_BYTES = 2 << 30  # of the file, which is read into memory


def read_pickle(path: Path) -> Any:
    """Return the dicts, lists, strings, bytes and numbers in the file. DataError names anything else in it."""
    if path.suffix != ".pkl":
        raise DataError(str(path), "expected a file that ends in .pkl")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(str(path), f"expected at most {MAX_BYTES} bytes; write JSON instead, which is streamed")
        with open(path, "rb") as file:
            return _Plain(file).load()
    except FileNotFoundError as error:
        raise DataError(str(path), "expected a pickle of masks, found none") from error
    except _FAULTS as error:
        raise DataError(str(path), f"expected a pickle of plain containers, found something else ({error})") from error


class _Plain(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) == ("_codecs", "encode"):  # bytes in protocols 0 to 2
            return _latin1
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which is not allowed; write plain lists")


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


# Errors that the unpickler raises on a damaged or hostile stream, according to its documentation.
_FAULTS = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)
