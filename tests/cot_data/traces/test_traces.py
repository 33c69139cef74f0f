"""VTS-CoT: records in the published form, traces from ground truth, and running them through the environment."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.load import ConfigError
from cot_data.datasets.matching import match
from cot_data.datasets.mevis import load_mevis
from cot_data.formats.vts_cot import Message, Record, TraceStep, read_records, validate, write_records
from cot_data.traces.dialogue import to_trajectory
from cot_data.traces.visibility import best_frame, place_of
from cot_data.traces.write import STYLES, write_trace
from env.errors import DataError
from env.rle import decode, encode
from env.types import Answer, Interval, Select, StopReason, Task, Trajectory, VideoRef
from tests.helpers.cot_parts import TINY


@pytest.fixture(scope="module")
def tasks(shapes: Path) -> list[Task]:
    return list(load_mevis(shapes))


def block(start: int, end: int, key_frame: int, name: str = "answer") -> str:
    values = json.dumps({"start": start, "end": end, "keyframe": key_frame})
    return f"<think>so</think>\n<{name}><VTG>{values}</VTG>, <RefSeg>[SEG]</RefSeg></{name}>"


def row(turns: list[str], trace: list[tuple[int, int, int]], num_frames: int = 20) -> dict[str, Any]:
    """A record as it is published."""
    talk = [{"from": "system", "value": "You .."}]
    for text in turns:
        talk += [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": text}]
    return {
        "video_name": "v",
        "frames": [f"{t:05d}" for t in range(num_frames)],
        "exp": "the dog",
        "anno_id": [3, "4"],
        "sample_frame_indice": [0, 10],
        "round_num": len(turns),
        "cot_trace": [dict(zip(("start_frame", "end_frame", "key_frame"), each, strict=True)) for each in trace],
        "conversations": talk,
        "some_later_field": None,
    }


def task_of(num_frames: int = 20, gold: tuple[Any, ...] = (), **labels: Any) -> Task:
    frames = tuple(f"{t:05d}" for t in range(num_frames))
    return Task("set/v/0", VideoRef("nowhere", "JPEGImages/v", frames, num_frames, 64, 64), "the dog", gold, **labels)


def square(left: int, top: int, side: int) -> dict[str, Any]:
    mask_HW = np.zeros((64, 64), bool)
    mask_HW[top : top + side, left : left + side] = True
    return encode(mask_HW)


# Records


def test_records_survive_a_round_trip(tmp_path: Path, tasks: list[Task]) -> None:
    records = [write_trace(task, TINY, np.random.default_rng(i), "full") for i, task in enumerate(tasks)]
    records = [replace(record, anno_id=(i, "x")) for i, record in enumerate(records)]
    write_records(tmp_path / "traces.json", records)
    assert read_records(tmp_path / "traces.json") == records
    published = json.loads((tmp_path / "traces.json").read_text())[0]
    names = {"video_name", "frames", "exp", "anno_id", "sample_frame_indice", "round_num", "cot_trace", "conversations"}
    assert set(published) == names | {"exp_id"}
    assert set(published["conversations"][0]) == {"from", "value"}


def test_a_published_record_is_read() -> None:
    record = validate(row([block(2, 9, 4, "select"), block(3, 8, 4)], [(2, 9, 4), (3, 8, 4)]), "file: record 0")
    assert record.cot_trace == (TraceStep(2, 9, 4), TraceStep(3, 8, 4))
    assert record.anno_id == (3, "4") and record.exp_id == ""
    assert record.conversations[0] == Message("system", "You ..") and len(record.gpt_turns) == 2


FAULTS = {
    "frames": ("00000", r"\.frames: expected list"),
    "exp": (None, r"\.exp: expected str, found NoneType"),
    "anno_id": ([1.5], r"\.anno_id\[0\]: expected a number or a string, found '1.5'"),
    "sample_frame_indice": ([20], r"\.sample_frame_indice: expected frames 0 to 19, found 20"),
    "round_num": (True, r"\.round_num: expected int, found bool"),
    "cot_trace": ([{"start_frame": 0, "key_frame": 0}], r"\.cot_trace\[0\]\.end_frame: the field is missing"),
    "conversations": (
        [{"from": "human", "value": ""}],
        r"\.conversations\[0\]\.from: expected 'system', found 'human'",
    ),
    "video_name": (7, r"\.video_name: expected str, found int"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_error_names_file_record_and_field(tmp_path: Path, name: str) -> None:
    good = row([block(3, 8, 4)], [(3, 8, 4)])
    value, message = FAULTS[name]
    (tmp_path / "cot.json").write_text(json.dumps([good, good | {name: value}]))
    with pytest.raises(DataError, match=rf"cot\.json: record 1{message}"):
        read_records(tmp_path / "cot.json")
    del good[name]
    with pytest.raises(DataError, match=rf"record 0\.{name}: the field is missing"):
        validate(good, "x: record 0")


def test_a_trace_needs_an_entry_per_turn() -> None:
    with pytest.raises(DataError, match=r"cot_trace: expected 2 entries, one per gpt turn, found 0"):
        validate(row([block(2, 9, 4, "select"), block(3, 8, 4)], []), "x")


def test_a_file_of_records_is_a_list(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match=r"r\.json: expected a list of records, found dict"):
        read_records(tmp_path / "r.json")


# Dialogues


def run(turns: list[str], trace: list[tuple[int, int, int]]) -> list[Any]:
    record = validate(row(turns, trace), "x")
    trajectory = to_trajectory(record, task_of(), replace(TINY, max_turns=1))
    assert trajectory.stop_reason is StopReason.ANSWERED and trajectory.trajectory_id == "-1/set/v/0/0"
    return [turn.decision for turn in trajectory.turns]


def test_a_record_runs_through_the_environment() -> None:
    decisions = run([block(2, 9, 4, "select"), block(3, 8, 4)], [(2, 9, 4), (3, 8, 4)])
    assert decisions == [Select(Interval(2, 10), 4), Answer(Interval(3, 9), 4)]
    assert run([block(3, 8, 4)], [(3, 8, 4)]) == [Answer(Interval(3, 9), 4)]  # an answer without a zoom


def test_an_exclusive_end_is_corrected_and_one_frame_is_an_interval() -> None:
    assert run([block(0, 20, 4)], [(0, 20, 4)]) == [Answer(Interval(0, 20), 4)]
    select, answer = block(5, 5, 5, "select"), block(3, 8, 4)
    assert run([select, answer], [(5, 5, 5)]) == [Select(Interval(5, 6), 5), Answer(Interval(3, 9), 4)]


@pytest.mark.parametrize(
    ("turns", "trace", "message"),
    [
        (
            ["<select>oops</select>", block(3, 8, 4)],
            [(2, 9, 4), (3, 8, 4)],
            r"'v', .* 'the dog', turn 0: does not parse",
        ),
        ([block(2, 9, 4, "select"), "bye"], [(2, 9, 4), (3, 8, 4)], "turn 1: does not parse"),
        ([block(2, 9, 25, "select"), block(3, 8, 4)], [(2, 9, 25), (3, 8, 4)], "turn 0: does not parse .out_of_range"),
        ([block(2, 9, 4, "select"), block(3, 8, 4)], [(2, 8, 4), (3, 8, 4)], "turn 0, cot_trace: expected the numbers"),
        ([block(2, 9, 4, "select")], [(2, 9, 4)], "turn 0: expected 1 turns of which the last one answers"),
        ([block(3, 8, 4), block(3, 8, 4)], [(3, 8, 4)] * 2, "turn 0: expected 2 turns of which the last one answers"),
    ],
)
def test_an_error_names_a_record_that_cannot_be_run(turns: list[str], trace: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        run(turns, trace)


def test_records_match_their_tasks_by_id_or_expression(tasks: list[Task], shapes: Path) -> None:
    outlines = load_mevis(shapes).outlines
    records = [write_trace(task, TINY, np.random.default_rng(0), "brief") for task in tasks]
    assert match(records, outlines, "r.json") == list(range(len(tasks)))
    assert match([replace(record, exp_id="") for record in records], outlines, "r.json") == list(range(len(tasks)))
    with pytest.raises(DataError, match=r"r\.json: record 0, .*no such task"):
        match([replace(records[0], video_name="elsewhere")], outlines, "r.json")


# Traces


def written(task: Task, style: str = "brief", seed: int = 0) -> Record:
    return write_trace(task, TINY, np.random.default_rng(seed), style)


def block_of(trajectory: Trajectory) -> Answer:
    answer = trajectory.turns[-1].decision
    assert isinstance(answer, Answer)
    return answer


@pytest.mark.parametrize("style", STYLES)
def test_every_trace_answers_with_what_its_frames_show(tasks: list[Task], style: str) -> None:
    for i, task in enumerate(tasks):
        trajectory = to_trajectory(written(task, style, i), task, TINY)
        answer, text = block_of(trajectory), trajectory.turns[-1].action.text
        seen = [t for t, rle in enumerate(task.gold) if rle]
        if not seen:
            assert answer.interval == Interval(0, task.video.num_frames)
            assert "nothing here answers" in text or "none" in text
            continue
        # A zoom in the compact style only adds its key frame.
        turns = trajectory.turns[:1] if style == "brief" else trajectory.turns
        shown = {frame.frame_idx for turn in turns for frame in turn.observation.frames}
        assert answer.key_frame in seen and task.caption in text
        areas = {t: decode(rle).sum() for t, rle in enumerate(task.gold) if rle}
        clear = [t for t in sorted(shown) if areas.get(t, 0) >= 24]
        if clear:
            assert answer.interval == Interval(clear[0], clear[-1] + 1)
        shown |= {frame.frame_idx for turn in trajectory.turns for frame in turn.observation.frames}
        assert answer.key_frame in shown or not shown & set(seen)


@pytest.mark.parametrize("style", STYLES)
def test_zooms_are_on_the_evidence_before_the_target_is_named(tasks: list[Task], style: str) -> None:
    explored = [task for task in tasks if task.explore]
    assert len(explored) >= 15
    for i, task in enumerate(explored):
        trajectory = to_trajectory(written(task, style, i), task, TINY)
        if len(trajectory.turns) == 1:
            assert style == "brief", "only the compact style, whose zooms are random, leaves evidence unseen"
            continue
        first, second, *_ = trajectory.turns
        assert isinstance(first.decision, Select) and task.caption not in first.action.text
        roles = {frame.role for frame in second.observation.frames if frame.frame_idx in task.evidence}
        assert "key" in roles or (style == "brief" and task.explore == "brief_event" and "zoom" in roles)


def test_some_of_the_other_tasks_have_a_zoom(tasks: list[Task]) -> None:
    plain = [task for task in tasks if not task.explore and any(task.gold)]
    turns = [len(written(task, "brief", i).gpt_turns) for i, task in enumerate(plain)]
    assert set(turns) == {1, 2} and abs(turns.count(2) / len(turns) - 0.25) <= 0.15


@pytest.mark.parametrize("style", STYLES)
def test_turns_think_in_three_steps_before_they_act(tasks: list[Task], style: str) -> None:
    for i, task in enumerate(tasks):
        for text in written(task, style, i).gpt_turns:
            assert re.findall(r"Step (\d)", text) == ["1", "2", "3"] and text.index("Action:") > text.index("Step 3")


def test_a_trace_needs_gold_masks_and_keeps_the_turn_limit(tasks: list[Task]) -> None:
    with pytest.raises(DataError, match="task set/v/0: expected gold masks"):
        written(task_of())
    with pytest.raises(ConfigError, match=r"env.prompt: unknown 'breif'; .* did you mean brief\?"):
        written(tasks[0], "breif")
    one_turn = replace(TINY, max_turns=1)
    for task in tasks:
        assert len(write_trace(task, one_turn, np.random.default_rng(1), "brief").gpt_turns) == 1


def test_the_key_frame_shows_the_target_large_and_whole_among_shown_frames() -> None:
    gold = (None, square(4, 4, 10), square(0, 4, 30), square(4, 4, 19), square(4, 4, 20), None)
    assert best_frame(gold, set(range(6))) == 3  # frame 2 is larger but cut by the border; 3 is nearly as large as 4
    assert best_frame(gold, {0, 1, 5}) == 1
    assert best_frame(gold, {2}) == 2  # cut in all shown frames
    assert best_frame(gold, {0, 5}) == 3  # visible in none: any frame


def test_a_zoom_on_evidence_that_the_query_does_not_name_has_a_margin() -> None:
    gold = tuple(square(8, 8, 12) for _ in range(20))
    record = written(task_of(20, gold, explore="brief_event", evidence=(17, 18), caption="brown dog"), "full")
    assert record.cot_trace == (TraceStep(13, 19, 17), TraceStep(0, 19, 17))
    assert "brown dog" not in record.gpt_turns[0] and "brown dog" in record.gpt_turns[1]


def test_places() -> None:
    assert place_of((5, 5), 64, 64) == "upper left"
    assert place_of((32, 32), 64, 64) == "center"
    assert place_of((32, 60), 64, 64) == "lower"
    assert place_of((99.9, 20), 60, 100) == "right"
