"""Read the RL data of the VideoSEG-O3 release, `rl_mevis_data.json` and `rl_revos_data.json`: the tasks of GRPO.

The file is a list of lists of records. As in the released code, only the first record of each inner list is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cot_data.formats.json_fields import all_of, field, read_json
from env.errors import DataError


@dataclass(frozen=True)
class RlRecord:
    """One expression; `mask_existence` [T] is true for the frames that show any of its objects."""

    video_name: str
    frames: tuple[str, ...]
    exp: str
    anno_id: tuple[int | str, ...]
    mask_existence: tuple[bool, ...]
    exp_id: str = ""  # "" if the file does not have it


def read_rl_records(path: Path) -> list[RlRecord]:
    """Return every record of a file. DataError names the file, the record's number (from 0) and the field."""
    groups = read_json(Path(path))
    if not isinstance(groups, list):
        raise DataError(str(path), f"expected a list of lists of records, found {type(groups).__name__}")
    return [_record(group, f"{path}: record {i}") for i, group in enumerate(groups)]


def _record(group: Any, where: str) -> RlRecord:
    if not isinstance(group, list) or not group:
        raise DataError(where, f"expected a list of at least one record, found {str(group)[:60]!r}")
    row = group[0]
    frames = all_of(row, "frames", str, where)
    existence = all_of(row, "mask_existence", int, where)
    if len(existence) != len(frames) or not frames or not set(existence) <= {0, 1}:
        raise DataError(f"{where}.mask_existence", f"expected 0 or 1 for each of {len(frames)} frames")
    return RlRecord(
        video_name=field(row, "video_name", str, where),
        frames=frames,
        exp=field(row, "exp", str, where),
        anno_id=all_of(row, "anno_id", (int, str), where),
        mask_existence=tuple(value == 1 for value in existence),
        exp_id=str(field(row, "exp_id", (int, str), where)) if "exp_id" in row else "",
    )
