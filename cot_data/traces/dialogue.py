"""Turn a recorded dialogue into a trajectory: run its turns through the environment, as a policy's would be."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from configs.schema import EnvConfig
from cot_data.formats.vts_cot import Record
from env.actions import parse_action
from env.episode import VideoSegEnv
from env.errors import DataError
from env.json_text import parse_json
from env.tools import enabled_tools
from env.types import Action, Answer, Malformed, Select, StopReason, Task, Trajectory, Turn, VideoRef

_NUMBERS = re.compile(r"\{[^{}]{1,200}\}")


def to_trajectory(record: Record, task: Task, config: EnvConfig) -> Trajectory:
    """Return the trajectory of a recorded dialogue.

    Args:
        record: the dialogue; all of its turns are run, even beyond `config.max_turns`.
        task: the task that the record belongs to.
        config: of the environment that shows the frames; the large ones of the first observation are the record's.

    Returns:
        A trajectory with action texts without token ids, and observations from the environment.

    Raises:
        DataError: the video has another number of frames, a turn does not parse or the last one does not answer; it
            names the file, the record and the turn.
    """
    texts, place = record.gpt_turns, _place(record)
    if len(record.frames) != task.video.num_frames:
        raise DataError(
            f"{place}, frames", f"expected {task.video.num_frames}, those of the video, found {len(record.frames)}"
        )
    config = replace(config, max_turns=max(config.max_turns, len(texts)), max_seconds=float("inf"), bounds="refuse")
    env = VideoSegEnv(task, config, detail=record.sample_frame_indice)
    observation = env.first_observation()
    turns: list[Turn] = []
    for i, text in enumerate(texts):
        where = f"{place}, turn {i}"
        action = Action(_with_inclusive_end(text, task.video.num_frames, config))
        result = env.step(action)
        if isinstance(result.decision, Malformed):
            raise DataError(where, f"does not parse ({result.decision.reason}: {result.decision.detail})")
        _check_cot_trace(record, i, result.decision, where)
        turns.append(Turn(observation, action, result.decision))
        if result.observation is None:
            break
        observation = result.observation
    if not isinstance(turns[-1].decision, Answer) or len(turns) < len(texts):
        raise DataError(f"{place}, turn {len(turns) - 1}", f"expected {len(texts)} turns of which the last one answers")
    return Trajectory(f"-1/{task.task_id}/0", task, -1, 0, turns, StopReason.ANSWERED)


def check_turns(record: Record, config: EnvConfig) -> None:
    """Run the turns of a record without its video. DataError as in `to_trajectory`, before any frame is read."""
    video = VideoRef("", record.video_name, (), len(record.frames), height=config.size_factor, width=config.size_factor)
    to_trajectory(record, Task("", video, record.exp, ()), config)


def _place(record: Record) -> str:
    """Return the file and the number of the record, where it was read from one, and its video and expression."""
    return f"{record.where or 'record'}, video {record.video_name!r}, expression {record.exp!r}"


def _check_cot_trace(record: Record, turn: int, decision: Select | Answer, where: str) -> None:
    """`cot_trace` must hold the numbers of the text; an end equal to the number of frames is accepted as exclusive."""
    if turn >= len(record.cot_trace):
        return
    noted, interval = record.cot_trace[turn], decision.interval
    ends = (interval.end - 1, interval.end) if interval.end == len(record.frames) else (interval.end - 1,)
    if (noted.start_frame, noted.key_frame) != (interval.start, decision.key_frame) or noted.end_frame not in ends:
        numbers = f"{interval.start} to {interval.end - 1}, key frame {decision.key_frame}"
        raise DataError(f"{where}, cot_trace", f"expected the numbers of the text ({numbers}), found {noted}")


def _with_inclusive_end(text: str, num_frames: int, config: EnvConfig) -> str:
    """The text, in which an interval that ends at `num_frames` (meant as exclusive) ends at the last frame."""
    decision = parse_action(text, num_frames, tools=enabled_tools(config).values())
    if not isinstance(decision, Malformed) or decision.reason != "out_of_range":
        return text
    found = list(_NUMBERS.finditer(text))[-1]
    values = parse_json(found[0])
    if values["end"] != num_frames:
        return text
    values["end"] = num_frames - 1
    return f"{text[: found.start()]}{json.dumps(values)}{text[found.end() :]}"


def without_frames(trajectory: Trajectory) -> Trajectory:
    """Return the same dialogue with text-only observations."""
    turns = [
        replace(
            turn,
            observation=replace(turn.observation, parts=tuple(p for p in turn.observation.parts if isinstance(p, str))),
        )
        for turn in trajectory.turns
    ]
    return replace(trajectory, turns=turns)
