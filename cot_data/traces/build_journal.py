"""What an unfinished build has done so far: JSON lines beside the file that it is to become, one per task, in order.

The first line holds what the traces depend on, so that a build goes on only as it was begun. A line that a kill cut
off is dropped.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cot_data.formats.vts_cot import Record, to_json, validate
from env.errors import DataError


@dataclass(frozen=True)
class Built:
    """What came of one task: a record, or the reasons why it has none."""

    task_id: str
    record: Record | None
    left_out: tuple[str, ...] = ()
    words_by: str = "template"
    rejected: tuple[str, ...] = ()  # why a teacher's wording was turned down
    spent: int = 0  # tokens of the teacher when this was done, all in all


class BuildJournal:
    """Append-only; `done` are the tasks of the lines found and added, the first ones of the data set."""

    def __init__(self, out: Path, settings: dict[str, Any]):
        """Open the journal of `out` where there is one. DataError where that was begun with other settings."""
        self.path = out.with_name(f"{out.name}.partial.jsonl")
        self.done: list[Built] = []
        out.parent.mkdir(parents=True, exist_ok=True)
        rows = self._rows()
        if rows:
            self._compare(rows[0], settings)
            self.done = [self._read(row, number) for number, row in enumerate(rows[1:], start=2)]
        self._file = self.path.open("a", encoding="utf-8")
        if not rows:
            self._write(settings)

    def add(self, built: Built) -> None:
        """Write down one more task, at once."""
        row = asdict(built) | {"record": to_json(built.record) if built.record else None}
        self._write(row)
        self.done.append(built)

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        """The build is done."""
        self.close()
        self.path.unlink()

    def _rows(self) -> list[Any]:
        """What is in the file, as far as its lines are whole; what stands behind them is cut off."""
        if not self.path.is_file():
            return []
        whole = self.path.read_bytes()
        end = whole.rfind(b"\n") + 1
        if end < len(whole):
            os.truncate(self.path, end)
        rows = []
        for number, line in enumerate(whole[:end].splitlines(), start=1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise DataError(f"{self.path}: line {number}", f"expected JSON ({error}); delete the file") from error
        return rows

    def _compare(self, found: Any, settings: dict[str, Any]) -> None:
        found = found if isinstance(found, dict) else {}
        differing = [name for name in {**settings, **found} if found.get(name) != settings.get(name)]
        if differing:
            told = ", ".join(f"{name} {found.get(name)!r} (now {settings.get(name)!r})" for name in differing)
            problem = f"holds a build begun with {told}; finish it with those, or delete the file"
            raise DataError(str(self.path), problem)

    def _read(self, row: dict[str, Any], number: int) -> Built:
        record = validate(row["record"], f"{self.path}: line {number}.record") if row["record"] else None
        faults = {name: tuple(row[name]) for name in ("left_out", "rejected")}
        return Built(**{**row, "record": record, **faults})
