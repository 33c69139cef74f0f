"""Read a `.pkl` of masks without running what is in it: plain containers, texts and numbers, and nothing else.

A pickle is a program that may call anything it names. This reader knows no names but the one by which old protocols
write bytes, so a file with an object of any class in it is refused before that class is looked for.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from env.errors import DataError

MAX_BYTES = 2 << 30  # of the file; all of it is held in memory


def read_pickle(path: Path) -> Any:
    """The dicts, lists, texts, bytes and numbers in the file. DataError names what else is in it."""
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
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which is not read; write plain lists")


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


# What the unpickler raises on a damaged or hostile stream; it says so in its documentation.
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
