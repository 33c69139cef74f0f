"""Convert a mask dictionary, `{anno_id: [RLE or null per frame]}`, to Arrow: one row per annotation, with its faults.

The faults of an annotation are stored in its row and raised when that annotation is read. So the other annotations stay
usable, and `cot_data.check` can report all faults.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from cot_data.formats.json_stream import read_members
from cot_data.formats.safe_pickle import read_pickle
from env.errors import DataError

FORMAT = "v1"  # part of the file name; change it when the schema changes
MAX_GROWTH = 16  # times the size of the file: annotators whose sentences share objects may share their masks
_BATCH = 1 << 25  # characters of masks per record batch
_SCHEMA = pa.schema(
    [
        ("anno_id", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("counts", pa.list_(pa.string())),  # null where the object is absent
        ("faults", pa.list_(pa.struct([("place", pa.string()), ("problem", pa.string())]))),
    ]
)
_MAX_SIDE = 1 << 15


@dataclass
class _Row:
    """One annotation; all of its masks have the same size."""

    anno_id: str
    height: int = 0
    width: int = 0
    counts: list[str | None] = field(default_factory=list)
    faults: list[dict[str, str]] = field(default_factory=list)


def write_rows(source: Path, out: Path) -> None:
    """Write the Arrow stream file `out`. DataError if `source` is not a dictionary, or grows beyond measure.

    A pickle can name one list of masks under many keys, which JSON cannot; a table has a copy for each.
    """
    left = MAX_GROWTH * source.stat().st_size + _BATCH
    with pa.OSFile(str(out), "wb") as file, pa.ipc.new_stream(file, _SCHEMA) as writer:
        rows: list[_Row] = []
        size = 0
        for anno_id, masks in _members(source):
            rows.append(_row(anno_id, masks))
            grown = len(rows[-1].counts) + sum(len(text) for text in rows[-1].counts if text is not None)
            size, left = size + grown, left - grown
            if left < 0:
                raise DataError(str(source), f"expected masks of at most {MAX_GROWTH} times its size, found more")
            if size > _BATCH:
                writer.write_batch(_batch(rows))
                rows, size = [], 0
        writer.write_batch(_batch(rows))


def _members(source: Path) -> Iterator[tuple[str, Any]]:
    if source.suffix != ".pkl":
        yield from read_members(source)
        return
    masks = read_pickle(source)
    if not isinstance(masks, dict):
        raise DataError(str(source), f"expected a dict of masks by anno_id, found {type(masks).__name__}")
    seen: set[str] = set()
    for key, rles in masks.items():
        if type(key) not in (str, int) or (isinstance(key, int) and abs(key) >= 2**63):
            raise DataError(str(source), f"expected texts or numbers as keys, found {type(key).__name__}")
        if str(key) in seen:
            raise DataError(str(source), f"the key {str(key)[:60]!r} stands twice, as a number and as a text")
        seen.add(str(key))
        yield str(key), rles


def _batch(rows: list[_Row]) -> pa.RecordBatch:
    columns = [pa.array([getattr(row, part.name) for row in rows], part.type) for part in _SCHEMA]
    return pa.record_batch(columns, schema=_SCHEMA)


def _row(anno_id: str, masks: Any) -> _Row:
    row = _Row(anno_id.encode("utf-8", "backslashreplace").decode())
    if not isinstance(masks, list):
        problem = f"expected a list of masks, one per frame, found {type(masks).__name__}"
        row.faults.append({"place": "", "problem": problem})
        return row
    first: Any = None
    for t, rle in enumerate(masks):
        counts = None
        if rle is not None:
            fault, counts = _fault(rle, first)
            if fault:
                row.faults.append({"place": f"[{t}]{fault[0]}", "problem": fault[1]})
            elif first is None:
                first = rle["size"]
        row.counts.append(counts)
    if first is not None:
        row.height, row.width = first
    return row


def _fault(rle: Any, first: Any) -> tuple[tuple[str, str] | None, str | None]:
    """The fault of a mask (field and problem) if any, and its counts as text; `first` is the size of the first mask."""
    try:
        size, counts = rle["size"], rle["counts"]
    except (TypeError, KeyError, IndexError):
        size, counts = None, None
    if type(counts) is bytes:
        counts = counts.decode("latin1")
    if type(counts) is not str or not counts.isascii():
        return ("", 'expected null or {"size": [h, w], "counts": STR}'), None
    if size == first or (first is None and _is_size(size)):
        return None, counts
    expected = "[height, width]" if first is None else f"{first}, the size of the masks before it"
    return (".size", f"expected {expected}, found {_describe(size)}"), None


def _describe(size: Any) -> str:
    try:
        return ascii(size)[:60]
    except ValueError:  # a number of more than 4,300 digits
        return type(size).__name__


def _is_size(size: Any) -> bool:
    is_pair = isinstance(size, list | tuple) and len(size) == 2
    return is_pair and all(type(side) is int and 1 <= side <= _MAX_SIDE for side in size)
