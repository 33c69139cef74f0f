"""Find the task of a data set that a published record belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cot_data.formats.rl_records import RlRecord
from cot_data.formats.vts_cot import Record
from cot_data.tasks import Outline
from env.errors import DataError
from env.types import names_in


def match(records: Iterable[Record | RlRecord], outlines: Sequence[Outline], file: str) -> list[int]:
    """Return the position of each record's task: that of the same video and expression id, or else expression.

    Args:
        records: The records of one file.
        outlines: The tasks of the data set.
        file: The file, which errors name.

    Raises:
        DataError: A record has no task; the message names the first one.
    """
    by_id: dict[tuple[str, str], int] = {}
    by_words: dict[tuple[str, str], int] = {}
    for at, outline in enumerate(outlines):
        video_name, exp_id = names_in(outline.task_id)
        by_id[video_name, exp_id] = at
        by_words.setdefault((video_name, outline.expression), at)
    found = []
    for i, record in enumerate(records):
        at = by_id.get((record.video_name, record.exp_id)) if record.exp_id else None
        at = by_words.get((record.video_name, record.exp)) if at is None else at
        known = outlines[at] if at is not None else None
        if known is None or known.expression != record.exp or known.num_frames not in (0, len(record.frames)):
            where = f"{file}: record {i}, video {record.video_name!r}, expression {record.exp!r}"
            raise DataError(where, f"the data set has no such task with {len(record.frames)} frames")
        found.append(at)
    return found
