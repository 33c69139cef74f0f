"""Trajectories and tasks as JSON rows of one fixed schema, and back. No I/O.

Rows hold no null and no dictionary with varying keys, because readers such as `datasets` infer column types from the
first rows they meet. A flag or a count beside a value tells whether it is there. Masks are lists of
{frame, height, width, counts}; the parts of the scores are a list of {name, applies, value}. Only lists may be empty.
Numbers are checked against bounds before anything is made of them, since a store may come from elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any, TypeVar

from env.types import (
    MAX_FRAMES,
    MAX_PIXELS,
    RLE,
    Action,
    Answer,
    Decision,
    FrameRef,
    Interval,
    Malformed,
    Observation,
    Region,
    Scores,
    Select,
    StopReason,
    Task,
    Trajectory,
    Turn,
    VideoRef,
)

VERSION = 3  # 1 had no `subset` of a task and no `stride` of a video; 1 and 2 no tools of a user's own
Row = dict[str, Any]
_Value = TypeVar("_Value")
_NO_FRAME: Row = {"frame_idx": -1, "width": 0, "height": 0, "role": "", "region": []}
_ROLE = re.compile(r"[a-z_]{1,40}")
_MANY = 2**53  # of steps and ids; a larger number is none in other readers of JSON
_RENAMED_REWARDS = {"turn_price": "turn_cost"}  # stores of older runs hold the old names


def task_to_row(task: Task) -> Row:
    """Return one row of `tasks.jsonl`. It holds the gold masks that are there; `num_gold` counts all frames."""
    video = asdict(task.video)
    return {
        "version": VERSION,
        "task_id": task.task_id,
        "video": {**video, "frames": list(task.video.frames)},
        "expression": task.expression,
        "family": task.family,
        "explore": task.explore,
        "evidence": list(task.evidence),
        "caption": task.caption,
        "subset": task.subset,
        "num_gold": len(task.gold),
        "gold": [_mask_to_row(frame, rle) for frame, rle in enumerate(task.gold) if rle is not None],
    }


def task_from_row(row: Row) -> Task:
    """Return the task of a row. ValueError names the field that is missing, of another type or out of range."""
    is_first = take(row, "version", int) == 1
    video = _video_from_row(take(row, "video", dict), is_first)
    num_frames = video.num_frames
    num_gold = take(row, "num_gold", int)
    if num_gold not in (0, num_frames):
        raise ValueError(
            f"field `num_gold`: expected 0 or the {num_frames} frames of the video, found {num_gold!r:.40}"
        )
    gold = _masks_from_rows(_rows(row, "gold"), num_gold)
    evidence = _list(row, "evidence", int)
    if not all(0 <= frame < num_frames for frame in evidence):
        raise ValueError(f"field `evidence`: expected frames 0 to {num_frames - 1}, found {evidence!r:.60}")
    return Task(
        task_id=take(row, "task_id", str),
        video=video,
        expression=take(row, "expression", str),
        gold=tuple(gold.get(frame) for frame in range(num_gold)),
        family=take(row, "family", str),
        explore=take(row, "explore", str),
        evidence=evidence,
        caption=take(row, "caption", str),
        subset="" if is_first else take(row, "subset", str),
    )


def _video_from_row(row: Row, is_first: bool) -> VideoRef:
    frames, num_frames = _list(row, "frames", str), _number(row, "num_frames", 1, MAX_FRAMES)
    if frames and len(frames) != num_frames:
        raise ValueError(f"field `frames`: expected {num_frames} names, or none for a video file, found {len(frames)}")
    height, width = _size(row)
    return VideoRef(
        root=take(row, "root", str),
        path=take(row, "path", str),
        frames=frames,
        num_frames=num_frames,
        height=height,
        width=width,
        stride=1 if is_first else _number(row, "stride", 1, MAX_FRAMES),
    )


def trajectory_to_row(trajectory: Trajectory) -> Row:
    """Return one row of `trajectories.jsonl`, which names its task by id only."""
    scores = trajectory.scores
    return {
        "version": VERSION,
        "trajectory_id": trajectory.trajectory_id,
        "task_id": trajectory.task.task_id,
        "step": trajectory.step,
        "sibling": trajectory.sibling,
        "stop_reason": trajectory.stop_reason.value,
        "error": _whole(trajectory.error),
        "turns": [_turn_to_row(turn) for turn in trajectory.turns],
        "masks": [_mask_to_row(frame, rle) for frame, rle in sorted(trajectory.masks.items())],
        "is_scored": scores is not None,
        "total": float(scores.total) if scores else 0.0,
        "breakdown": [
            {"name": name, "applies": value is not None, "value": float(value or 0.0)}
            for name, value in (scores.breakdown if scores else {}).items()
        ],
        **_optional_to_row("advantage", trajectory.advantage),
    }


def trajectory_from_row(row: Row, tasks: dict[str, Task]) -> Trajectory:
    """Return the trajectory of a row, given the tasks by id. ValueError names the wrong field."""
    task_id, version = take(row, "task_id", str), take(row, "version", int)
    if task_id not in tasks:
        raise ValueError(f"field `task_id`: there is no task {task_id!r}")
    scores = None
    if take(row, "is_scored", bool):
        parts = _rows(row, "breakdown")
        values = [take(part, "value", float) if take(part, "applies", bool) else None for part in parts]
        names = [_RENAMED_REWARDS.get(name, name) for name in (take(part, "name", str) for part in parts)]
        scores = Scores(take(row, "total", float), dict(zip(names, values, strict=True)))
    num_frames = tasks[task_id].video.num_frames
    turns = [_turn_from_row(turn, version) for turn in _rows(row, "turns")]
    for number, turn in enumerate(turns):
        _check_frames(turn, number, num_frames)
    return Trajectory(
        trajectory_id=take(row, "trajectory_id", str),
        task=tasks[task_id],
        step=_number(row, "step", -1, _MANY),
        sibling=_number(row, "sibling", 0, _MANY),
        turns=turns,
        stop_reason=StopReason(take(row, "stop_reason", str)),
        error=take(row, "error", str),
        masks=_masks_from_rows(_rows(row, "masks"), num_frames),
        scores=scores,
        advantage=_optional_from_row(row, "advantage"),
    )


def _check_frames(turn: Turn, number: int, num_frames: int) -> None:
    """Raise ValueError if a turn names a frame that the video does not have."""
    named = [frame.frame_idx for frame in turn.observation.frames]
    if not isinstance(turn.decision, Malformed):
        named += [turn.decision.interval.end - 1, turn.decision.key_frame]
    if turn.mask_frame is not None:
        named.append(turn.mask_frame)
    if not all(0 <= frame < num_frames for frame in named):
        raise ValueError(f"field `turns`: turn {number} names a frame outside of 0 to {num_frames - 1}")


def _turn_to_row(turn: Turn) -> Row:
    action = turn.action
    key_frame = -1 if turn.mask_frame is None else turn.mask_frame  # -1: that of the decision
    return {
        "system": turn.observation.system,
        "parts": [_part_to_row(part) for part in turn.observation.parts],
        "observation_ids": list(turn.observation_ids),
        "text": _whole(action.text),
        "token_ids": list(action.token_ids),
        "logprobs": [float(value) for value in action.logprobs],
        "old_logprobs": [float(value) for value in turn.old_logprobs],
        "weights_version": action.weights_version,
        "finish": action.finish,
        "decision": _decision_to_row(turn.decision),
        "key_masks": [] if turn.key_mask is None else [_mask_to_row(key_frame, turn.key_mask)],
        **_optional_to_row("mask_logprob", turn.mask_logprob),
    }


def _turn_from_row(row: Row, version: int) -> Turn:
    finish = take(row, "finish", str)
    if finish != "stop" and finish != "length":
        raise ValueError(f"field `finish`: expected stop or length, found {finish!r}")
    key_masks = _masks_from_rows(_rows(row, "key_masks"), MAX_FRAMES, least=-1)
    key_frame, key_mask = next(iter(key_masks.items()), (-1, None))
    parts = tuple(_part_from_row(part, version) for part in _rows(row, "parts"))
    return Turn(
        observation=Observation(parts, take(row, "system", str)),
        action=Action(
            text=take(row, "text", str),
            token_ids=_ids(row, "token_ids"),
            logprobs=_list(row, "logprobs", float),
            weights_version=_number(row, "weights_version", -1, _MANY),
            finish=finish,
        ),
        decision=_decision_from_row(take(row, "decision", dict), version),
        observation_ids=_ids(row, "observation_ids"),
        old_logprobs=_list(row, "old_logprobs", float),
        key_mask=key_mask,
        mask_logprob=_optional_from_row(row, "mask_logprob"),
        mask_frame=None if key_frame < 0 else key_frame,
    )


def _part_to_row(part: str | FrameRef) -> Row:
    if isinstance(part, str):
        return {"text": part, "frame": _NO_FRAME}
    return {"text": "", "frame": {**asdict(part), "region": list(part.region or ())}}


def _part_from_row(row: Row, version: int) -> str | FrameRef:
    frame = take(row, "frame", dict)
    role = take(frame, "role", str)
    if role == "":
        return take(row, "text", str)
    # Any name: the tool that showed the frame need not be installed where the store is read.
    if not _ROLE.fullmatch(role):
        raise ValueError(f"field `role`: expected lowercase letters and underscores, found {role!r:.60}")
    height, width = _size(frame)
    return FrameRef(
        frame_idx=take(frame, "frame_idx", int),  # `_check_frames` compares it with the video
        width=width,
        height=height,
        role=role,
        region=_region(frame) if version >= 3 else None,
    )


def _region(frame: Row) -> Region | None:
    sides = _list(frame, "region", int)
    if not sides:
        return None
    if len(sides) != 4:
        raise ValueError(f"field `region`: expected left, top, right and bottom, or nothing, found {sides!r:.60}")
    return sides


def _decision_to_row(decision: Decision) -> Row:
    if isinstance(decision, Malformed):
        nowhere = {"start": -1, "end": -1, "key_frame": -1, "arguments": []}
        return {"kind": "malformed", **nowhere, "reason": decision.reason, "detail": decision.detail}
    kind = "select" if isinstance(decision, Select) else "answer"
    where = {"start": decision.interval.start, "end": decision.interval.end, "key_frame": decision.key_frame}
    given = decision.arguments if isinstance(decision, Select) else {}
    arguments = [{"name": name, "values": list(values)} for name, values in given.items()]
    return {"kind": kind, **where, "arguments": arguments, "reason": "", "detail": ""}


def _decision_from_row(row: Row, version: int) -> Decision:
    kind = take(row, "kind", str)
    if kind == "malformed":
        return Malformed(take(row, "reason", str), take(row, "detail", str))
    if kind not in ("select", "answer"):
        raise ValueError(f"field `kind`: expected select, answer or malformed, found {kind!r}")
    interval, key_frame = Interval(take(row, "start", int), take(row, "end", int)), take(row, "key_frame", int)
    if kind == "answer":
        return Answer(interval, key_frame)
    arguments = _rows(row, "arguments") if version >= 3 else []
    return Select(interval, key_frame, {take(one, "name", str): _list(one, "values", int) for one in arguments})


def _mask_to_row(frame: int, rle: RLE) -> Row:
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    if not isinstance(text, str):
        raise ValueError(f"mask of frame {frame}: expected compressed RLE counts, found {type(counts).__name__}")
    height, width = rle["size"]
    return {"frame": int(frame), "height": int(height), "width": int(width), "counts": text}


def _masks_from_rows(rows: list[Row], num_frames: int, least: int = 0) -> dict[int, RLE]:
    masks: dict[int, RLE] = {}
    for row in rows:
        frame = _number(row, "frame", least, num_frames - 1)
        if frame in masks:
            raise ValueError(f"field `frame`: expected one mask of frame {frame}, found two")
        masks[frame] = {"size": list(_size(row)), "counts": take(row, "counts", str)}
    return masks


def _whole(text: str) -> str:
    """Return a text with `?` for each half of a surrogate pair, which a path in an error may have."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _optional_to_row(name: str, value: float | None) -> Row:
    return {f"has_{name}": value is not None, name: float(value or 0.0)}


def _optional_from_row(row: Row, name: str) -> float | None:
    return take(row, name, float) if take(row, f"has_{name}", bool) else None


def check_version(row: Row) -> None:
    """Raise ValueError if a newer version of the schema than this one wrote the row."""
    version = take(row, "version", int)
    if not 1 <= version <= VERSION:
        raise ValueError(f"field `version`: expected 1 to {VERSION}, found {version}, which a newer release wrote")


def take(row: Row, name: str, kind: type[_Value]) -> _Value:
    """Return the field `name` of a row.

    Args:
        row: The row.
        name: The field.
        kind: Its exact type: a bool is no int, and 1 is no float.

    Raises:
        ValueError: The field is missing or has another type.
    """
    if name not in row:
        raise ValueError(f"field `{name}`: missing")
    value = row[name]
    if type(value) is not kind:
        raise ValueError(f"field `{name}`: expected {kind.__name__}, found {value!r:.60}")
    return value


def _number(row: Row, name: str, least: int, most: int) -> int:
    value = take(row, name, int)
    if not least <= value <= most:
        raise ValueError(f"field `{name}`: expected {least} to {most}, found {value!r:.40}")
    return value


def _size(row: Row) -> tuple[int, int]:
    """Return (height, width) in pixels."""
    height, width = _number(row, "height", 1, MAX_PIXELS), _number(row, "width", 1, MAX_PIXELS)
    if height * width > MAX_PIXELS:
        raise ValueError(f"field `height`: expected at most {MAX_PIXELS} pixels, found {height} x {width}")
    return height, width


def _ids(row: Row, name: str) -> tuple[int, ...]:
    ids = _list(row, name, int)
    if ids and not 0 <= min(ids) <= max(ids) < 2**31:
        raise ValueError(f"field `{name}`: expected ids of tokens, from 0, found {min(ids)!r:.20} to {max(ids)!r:.20}")
    return ids


def _rows(row: Row, name: str) -> list[Row]:
    return list(_list(row, name, dict))


def _list(row: Row, name: str, kind: type[_Value]) -> tuple[_Value, ...]:
    values = take(row, name, list)
    for value in values:
        if type(value) is not kind:
            raise ValueError(f"field `{name}`: expected a list of {kind.__name__}, it holds {value!r:.60}")
    return tuple(values)
