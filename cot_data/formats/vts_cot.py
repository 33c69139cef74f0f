"""Read and write VTS-CoT records: dialogues that explore a video step by step, in the published JSON form (a list).

`cot_trace` and the text of a turn both give an interval by its first and last frame, inclusive.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from dataclasses import field as dataclass_field
from itertools import cycle
from pathlib import Path
from typing import Any

from cot_data.formats.json_fields import all_of, field, read_json
from env.errors import DataError
from env.files import write_text


@dataclass(frozen=True)
class TraceStep:
    """The numbers of one turn; `end_frame` is the interval's last frame."""

    start_frame: int
    end_frame: int
    key_frame: int


@dataclass(frozen=True)
class Message:
    """One message; `speaker` is system, human or gpt (`from` in the JSON)."""

    speaker: str
    value: str


@dataclass(frozen=True)
class Record:
    """One dialogue. `conversations` is system, human, gpt, human, gpt, ..; `cot_trace` has one entry per gpt turn."""

    video_name: str
    frames: tuple[str, ...]
    exp: str
    anno_id: tuple[int | str, ...]  # keys of the mask dictionary, whose union is the target; () if unknown
    sample_frame_indice: tuple[int, ...]  # high-resolution frames of the first observation
    round_num: int
    cot_trace: tuple[TraceStep, ...]
    conversations: tuple[Message, ...]
    exp_id: str = ""  # id of the expression in its video: an addition of ours, which published records lack
    where: str = dataclass_field(default="", compare=False)  # file and number of a record that was read

    @property
    def gpt_turns(self) -> tuple[str, ...]:
        """The texts of the model's turns."""
        return tuple(message.value for message in self.conversations if message.speaker == "gpt")


def read_records(path: Path) -> list[Record]:
    """Return every record of a file. DataError names the file, the record's number (from 0) and the field."""
    rows = read_json(Path(path))
    if not isinstance(rows, list):
        raise DataError(str(path), f"expected a list of records, found {type(rows).__name__}")
    return [validate(row, f"{path}: record {i}") for i, row in enumerate(rows)]


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records in the published form, one per line."""
    rows = ",\n".join(json.dumps(to_json(record)) for record in records)
    write_text(Path(path), f"[\n{rows}\n]\n")


def to_json(record: Record) -> dict[str, Any]:
    """Return the published form of a record."""
    row = asdict(record)
    row["conversations"] = [{"from": message.speaker, "value": message.value} for message in record.conversations]
    del row["where"]
    if not record.exp_id:
        del row["exp_id"]
    return row


def validate(row: Any, where: str) -> Record:
    """Return the record in `row`. Unknown fields are ignored. DataError if a known field is missing or broken."""
    frames = all_of(row, "frames", str, where)
    if not frames:
        raise DataError(f"{where}.frames", "expected frame names, found none")
    indices = all_of(row, "sample_frame_indice", int, where)
    for t in indices:
        if not 0 <= t < len(frames):
            raise DataError(f"{where}.sample_frame_indice", f"expected frames 0 to {len(frames) - 1}, found {t}")
    conversations = _messages(row, where)
    num_turns = sum(message.speaker == "gpt" for message in conversations)
    trace = _trace(row, num_turns, where)
    return Record(
        video_name=field(row, "video_name", str, where),
        frames=frames,
        exp=field(row, "exp", str, where),
        anno_id=all_of(row, "anno_id", (int, str), where),
        sample_frame_indice=indices,
        round_num=field(row, "round_num", int, where),
        cot_trace=trace,
        conversations=conversations,
        exp_id=field(row, "exp_id", str, where) if "exp_id" in row else "",
        where=where,
    )


def _messages(row: Any, where: str) -> tuple[Message, ...]:
    messages = []
    for i, each in enumerate(field(row, "conversations", list, where)):
        item_where = f"{where}.conversations[{i}]"
        messages.append(Message(field(each, "from", str, item_where), field(each, "value", str, item_where)))
    wanted = cycle(("human", "gpt"))
    for i, message in enumerate(messages):
        speaker = next(wanted) if i else "system"
        if message.speaker != speaker:
            raise DataError(f"{where}.conversations[{i}].from", f"expected {speaker!r}, found {message.speaker!r}")
    if len(messages) < 3 or messages[-1].speaker != "gpt":
        raise DataError(f"{where}.conversations", "expected system, human, gpt, .., with a gpt turn last")
    return tuple(messages)


def _trace(row: Any, num_turns: int, where: str) -> tuple[TraceStep, ...]:
    """One entry per turn, or one per select: some published records lack the answer's."""
    steps = []
    for i, each in enumerate(field(row, "cot_trace", list, where)):
        item_where = f"{where}.cot_trace[{i}]"
        steps.append(
            TraceStep(*(field(each, name, int, item_where) for name in ("start_frame", "end_frame", "key_frame")))
        )
    if len(steps) not in (num_turns, num_turns - 1):
        raise DataError(f"{where}.cot_trace", f"expected {num_turns} entries, one per gpt turn, found {len(steps)}")
    return tuple(steps)
