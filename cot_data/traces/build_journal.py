"""Keep the results of an unfinished build: JSON lines beside the output file, one per task, in order.

The first line holds the settings that the traces depend on, so a build continues only with the same settings. A last
line that was cut off when the process was killed is dropped.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cot_data.formats.json_fields import all_of, field
from cot_data.formats.vts_cot import Record, to_json, validate
from env.errors import DataError
from env.files import append_lines, make_folder, read_lines
from env.json_text import parse_json


@dataclass(frozen=True)
class Built:
    """The result of one task: a record, or the reasons why it has none."""

    task_id: str
    record: Record | None
    left_out: tuple[str, ...] = ()
    words_by: str = "template"
    rejected: tuple[str, ...] = ()  # why the teacher's wording was rejected
    spent: int = 0  # tokens that the teacher has used up to and including this task


class BuildJournal:
    """An append-only file. `done` has the results found in it and those added since, in order of the tasks."""

    def __init__(self, out: Path, settings: dict[str, Any]):
        """Open the journal of the output file `out`, or start one. DataError if it was started with other settings."""
        self.path = out.with_name(f"{out.name}.partial.jsonl")
        self.done: list[Built] = []
        make_folder(out.parent)
        rows = self._rows()
        if rows:
            self._compare(rows[0], settings)
            self.done = [self._read(row, number) for number, row in enumerate(rows[1:], start=2)]
        if not rows:
            self._write(settings)

    def add(self, built: Built) -> None:
        """Append one result and flush it to disk. MachineError where that cannot be done; it can be added again."""
        row = asdict(built) | {"record": to_json(built.record) if built.record else None}
        self._write(row)
        self.done.append(built)

    def _write(self, row: dict[str, Any]) -> None:
        append_lines(self.path, [json.dumps(row) + "\n"])

    def _rows(self) -> list[Any]:
        """The complete lines of the file; an incomplete last line, whose writer was killed, is left out."""
        rows = []
        for number, (_, line) in enumerate(read_lines(self.path), start=1):
            try:
                rows.append(parse_json(line))
            except ValueError as error:
                raise DataError(f"{self.path}: line {number}", f"expected JSON ({error}); delete the file") from error
        return rows

    def _compare(self, found: Any, settings: dict[str, Any]) -> None:
        found = found if isinstance(found, dict) else {}
        differing = [name for name in {**settings, **found} if found.get(name) != settings.get(name)]
        if differing:
            changes = ", ".join(f"{name} {found.get(name)!r} (now {settings.get(name)!r})" for name in differing)
            problem = f"holds a build started with {changes}; finish it with the same settings, or delete the file"
            raise DataError(str(self.path), problem)

    def _read(self, row: Any, number: int) -> Built:
        where = f"{self.path}: line {number}"
        record = field(row, "record", (dict, type(None)), where)
        words_by = field(row, "words_by", str, where)
        if words_by not in ("teacher", "template"):
            raise DataError(f"{where}.words_by", f"expected teacher or template, found {words_by!r:.60}")
        return Built(
            task_id=field(row, "task_id", str, where),
            record=None if record is None else validate(record, f"{where}.record"),
            left_out=all_of(row, "left_out", str, where),
            words_by=words_by,
            rejected=all_of(row, "rejected", str, where),
            spent=field(row, "spent", int, where),
        )
