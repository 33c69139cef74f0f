"""Read `moving_shapes.json`, the labels of a data set of Moving Shapes. Every fault is a DataError."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from cot_data.formats.json_fields import all_of, field, read_json
from cot_data.tasks import Outline
from env.data_root import check_links
from env.errors import DataError

LABELS = "moving_shapes.json"


def size_and_seed(root: Path) -> tuple[int, int]:
    """Return how many videos the data set in folder `root` has, and the seed that it was made with."""
    file = root / LABELS
    found = read_json(file)
    return len(field(found, "videos", dict, str(file))), field(found, "seed", int, str(file))


def read_labels(root: Path) -> dict[str, Any]:
    """Return the labels by video name."""
    check_links(root, LABELS, str(root / LABELS))
    return field(read_json(root / LABELS), "videos", dict, str(root / LABELS))


def label_of(videos: dict[str, Any], video: str, exp_id: str, num_frames: int, where: str) -> dict[str, Any]:
    """Return the fields of an outline that the labels of an expression give.

    Args:
        videos: what `read_labels` returns.
        video: name of the video.
        exp_id: of the expression.
        num_frames: of the video.
        where: the file, for errors.

    Returns:
        `family`, `explore`, `caption` and `evidence`; nothing where the expression has no label.

    Raises:
        DataError: the label is damaged, or names no evidence although it says that exploring pays.
    """
    if video not in videos:
        return {}
    expressions = field(videos[video], "expressions", dict, f"{where}: videos[{video!r}]")
    if exp_id not in expressions:
        return {}
    label, label_where = expressions[exp_id], f"{where}: videos[{video!r}].expressions[{exp_id!r}]"
    texts = {name: field(label, name, str, label_where) for name in ("family", "explore", "caption")}
    if not texts["family"]:
        raise DataError(f"{label_where}.family", f"expected a kind of query such as {Outline.family!r}, found none")
    evidence = frames_of(label, "evidence", num_frames, label_where)
    if any(before >= after for before, after in pairwise(evidence)):
        raise DataError(f"{label_where}.evidence", "expected frames in order, each once")
    if texts["explore"] and not evidence:
        raise DataError(f"{label_where}.evidence", "expected the frames that show the evidence, since `explore` is set")
    return {**texts, "evidence": evidence}


def frames_of(record: Any, name: str, num_frames: int, where: str) -> tuple[int, ...]:
    """Return a list of frame indices.

    Args:
        record: a parsed JSON value, which should be an object.
        name: of the field.
        num_frames: of the video.
        where: file and record, for errors.

    Returns:
        Indices from 0 to `num_frames` - 1.

    Raises:
        DataError: the field holds something else.
    """
    frames: tuple[int, ...] = all_of(record, name, int, where)
    for t in frames:
        if not 0 <= t < num_frames:
            raise DataError(f"{where}.{name}", f"expected frames 0 to {num_frames - 1}, found {t!r:.40}")
    return frames
