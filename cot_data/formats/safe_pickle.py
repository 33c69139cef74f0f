"""Read a `.pkl` of masks without running code from it: it may have plain containers, strings and numbers only.

A pickle is a program for a stack machine, which can call any function it names. This reader is such a machine with the
instructions for plain values alone, so that nothing is imported or called. The one call that old protocols need, to
write bytes as text in Latin-1, is recognised by its name.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from env.errors import DataError

MAX_BYTES = 2 << 30  # of the file, which is read into memory
MAX_VALUES = 1 << 26  # instructions, of which each makes at most one object
_MARK, _TO_BYTES = object(), object()  # the start of a container's members; the function `_codecs.encode`
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_WITH_VALUE = {  # instructions that hold a string or number
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_PUT, _GET = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}


def read_pickle(path: Path) -> Any:
    """Return the dicts, lists, strings, bytes and numbers in the file. DataError names anything else in it."""
    if path.suffix != ".pkl":
        raise DataError(str(path), "expected a file that ends in .pkl")
    if not path.is_file():
        raise DataError(str(path), "expected a pickle of masks, found none")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(str(path), f"expected at most {MAX_BYTES} bytes; write JSON instead, which is streamed")
        return _run(path.read_bytes())
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({error.strerror})") from error
    except (ValueError, IndexError, KeyError, TypeError, MemoryError, RecursionError) as error:  # of a damaged program
        problem = f"{type(error).__name__}: {error}"[:200]
        raise DataError(
            str(path), f"expected a pickle of plain containers, found something else ({problem})"
        ) from error


def _run(program: bytes) -> Any:
    """Return what the program leaves on the stack."""
    machine = _Machine()
    for number, (instruction, value, _) in enumerate(pickletools.genops(program)):
        if instruction.name == "STOP":
            return machine.stack.pop()
        if number >= MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES} values")
        machine.do(instruction.name, value)
    raise ValueError("it has no end")


class _Machine:
    """The stack, and the values that the program keeps to use them again."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._kept: dict[int, Any] = {}

    def do(self, name: str, value: Any) -> None:
        """Carry out one instruction. ValueError for one that is not of plain values."""
        stack = self.stack
        if name in _WITH_VALUE:
            stack.append(value)
        elif name in _GET:
            stack.append(self._kept[int(value)])
        elif name in _PUT:
            self._kept[int(value)] = stack[-1]
        elif name == "MEMOIZE":
            self._kept[len(self._kept)] = stack[-1]
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in _VALUES:
            stack.append(_VALUES[name])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            self._name(value.split(" ") if name == "GLOBAL" else [stack.pop(-2), stack.pop()])
        elif name == "REDUCE":
            self._call()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "POP":
            stack.pop()
        elif name not in ("PROTO", "FRAME"):
            self._fill(name)

    def _fill(self, name: str) -> None:
        """Carry out an instruction that makes a container, or puts members into one."""
        stack = self.stack
        if name == "APPEND":
            value = stack.pop()
            _list(stack[-1]).append(value)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _dict(stack[-1])[key] = value
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[i - count] for i in range(count))]
        elif name == "APPENDS":
            members = self._members()
            _list(stack[-1]).extend(members)
        elif name == "SETITEMS":
            members = self._members()
            _dict(stack[-1]).update(zip(members[::2], members[1::2], strict=True))
        elif name == "LIST":
            stack.append(self._members())
        elif name == "TUPLE":
            stack.append(tuple(self._members()))
        elif name == "DICT":
            members = self._members()
            stack.append(dict(zip(members[::2], members[1::2], strict=True)))
        elif name == "POP_MARK":
            self._members()
        else:
            raise ValueError(f"the instruction {name} is not allowed; write plain lists and dicts")

    def _members(self) -> list[Any]:
        """Take the values above the last mark from the stack, and the mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
        members = self.stack[at + 1 :]
        del self.stack[at:]
        return members

    def _name(self, names: list[Any]) -> None:
        if names != ["_codecs", "encode"]:  # bytes in protocols 0 to 2
            raise ValueError(f"it names {'.'.join(map(str, names))}, which is not allowed; write plain lists")
        self.stack.append(_TO_BYTES)

    def _call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if function is not _TO_BYTES or type(arguments) is not tuple or arguments[1:] != ("latin1",):
            raise ValueError("it calls something that is no string of bytes")
        self.stack.append(arguments[0].encode("latin1") if type(arguments[0]) is str else None)


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise ValueError(f"it appends to a {type(value).__name__}")
    return value


def _dict(value: Any) -> dict[Any, Any]:
    if type(value) is not dict:
        raise ValueError(f"it sets a member of a {type(value).__name__}")
    return value
