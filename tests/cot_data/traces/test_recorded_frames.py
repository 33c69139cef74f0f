"""Recorded dialogues show the large frames that they were recorded with, and their mistakes are told at once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.load import load_config
from configs.schema import EnvConfig
from cot_data.datasets import load_tasks
from cot_data.formats.vts_cot import read_records, to_json, validate, write_records
from cot_data.traces.candidates import build_scene
from cot_data.traces.dialogue import check_turns, to_trajectory
from cot_data.traces.validate import find_faults
from cot_data.traces.write import prose_turns, to_record, write_trace
from env.errors import DataError
from env.types import Task, VideoRef
from rl.sft.data import SftDataset
from tests.helpers.cot_parts import HAND, dog_and_woman
from tests.helpers.rl_parts import Micro

CONFIG = EnvConfig(strip_frames=5, detail_frames=5)


def row(indices: list[int], num_frames: int = 40, text: str = "", **changes: Any) -> dict[str, Any]:
    """A record as it is published, of one turn."""
    numbers = '{"start": 3, "end": 8, "keyframe": 5}'
    text = text or f"<think>so</think>\n<answer><VTG>{numbers}</VTG>, <RefSeg>[SEG]</RefSeg></answer>"
    speakers = ("system", "You .."), ("human", "<image>"), ("gpt", text)
    return {
        "video_name": "v",
        "frames": [f"{t:05d}" for t in range(num_frames)],
        "exp": "the dog",
        "anno_id": [3],
        "sample_frame_indice": indices,
        "round_num": 1,
        "cot_trace": [{"start_frame": 3, "end_frame": 8, "key_frame": 5}],
        "conversations": [{"from": speaker, "value": value} for speaker, value in speakers],
        **changes,
    }


def task_of(num_frames: int = 40) -> Task:
    return Task("set/v/0", VideoRef("nowhere", "v", (), num_frames, 64, 64), "the dog", ())


@pytest.mark.parametrize("indices", [[0, 9, 19, 29, 39], [7], [], list(range(40)), [39, 0, 12], [5, 5]])
@pytest.mark.parametrize("rounding", ["nearest", "down"])
def test_the_record_s_frames_are_shown_in_order(indices: list[int], rounding: str):
    config = replace(CONFIG, frame_rounding=rounding)
    (turn,) = to_trajectory(validate(row(indices), "x"), task_of(), config).turns
    shown = [frame.frame_idx for frame in turn.observation.frames if frame.role == "detail"]
    assert shown == sorted(indices)
    strip = [frame.frame_idx for frame in turn.observation.frames if frame.role == "strip"]
    assert strip == ([0, 10, 20, 29, 39] if rounding == "nearest" else [0, 9, 19, 29, 39])
    text = "".join(part for part in turn.observation.parts if isinstance(part, str))
    assert f"Large frames ({len(indices)}), at the frame indices {sorted(indices)}." in text


def test_a_trace_is_checked_against_its_own_frames():
    """It speaks of frames that the config would not show, and a config with other numbers changes nothing."""
    dog, woman = dog_and_woman()
    scene = build_scene(dog, [woman])
    large = replace(HAND, detail_frames=4)
    record = to_record(dog, large, prose_turns(scene, large, np.random.default_rng(0)))
    assert record.sample_frame_indice == (0, 13, 27, 40)
    assert find_faults(record, scene, large) == find_faults(record, scene, HAND) == []
    others = find_faults(replace(record, sample_frame_indice=(1, 2)), scene, large)
    assert any("13" in fault or "27" in fault for fault in others), "frames that are spoken of and not shown"


def test_the_cold_start_trains_on_the_record_s_frames(micro: Micro, tmp_path: Path):
    config, tasks = micro.config(tmp_path), load_tasks("mevis", micro.data)[:3]
    env = config.env
    assert env.detail_frames == 1
    written = [write_trace(task, env, np.random.default_rng(0), "brief") for task in tasks]
    changed = [replace(record, sample_frame_indice=(at, 9 + at, 20)) for at, record in enumerate(written)]
    write_records(tmp_path / "traces.json", changed)
    dataset = SftDataset(load_config("smoke", [*micro.overrides(tmp_path), f"data.traces={tmp_path / 'traces.json'}"]))
    for at in range(3):
        frames = dataset.dialogue(at).turns[0].observation.frames
        assert [frame.frame_idx for frame in frames if frame.role == "detail"] == [at, 9 + at, 20]


LATE = {  # found by running the turns, not by reading the fields
    "does not parse": (row([0], text="<think>so</think>hello [SEG]"), r"turn 0: does not parse \(no_block"),
    "out of the video": (row([0], num_frames=7), r"turn 0: .*out_of_range"),
    "other numbers": (
        row([0], cot_trace=[{"start_frame": 4, "end_frame": 8, "key_frame": 5}]),
        r"turn 0, cot_trace: expected the numbers of the text \(3 to 8, key frame 5\)",
    ),
    "no answer": (
        row([0], text=row([0])["conversations"][2]["value"].replace("answer", "select")),
        r"turn 0: expected 1 turns of which the last one answers",
    ),
}


@pytest.mark.parametrize("name", LATE)
def test_a_mistake_is_told_when_the_file_is_opened(micro: Micro, tmp_path: Path, name: str):
    bad, problem = LATE[name]
    file = tmp_path / "traces.json"
    good = to_json(write_trace(micro.tasks()[0], load_config("smoke").env, np.random.default_rng(0), "brief"))
    file.write_text(json.dumps([good, good, bad]))
    config = load_config("smoke", [*micro.overrides(tmp_path), f"data.traces={file}"])
    place = r"traces\.json: record 2, video 'v', expression 'the dog', "
    with pytest.raises(DataError, match=place + problem) as caught:
        SftDataset(config)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=place + problem):
        check_turns(read_records(file)[2], config.env)


def test_a_record_of_another_video_names_its_file(micro: Micro, tmp_path: Path):
    file = tmp_path / "traces.json"
    file.write_text(json.dumps([row([0])]))
    with pytest.raises(DataError, match=r"traces\.json: record 0, video 'v', .* no such task with 40 frames"):
        SftDataset(load_config("smoke", [*micro.overrides(tmp_path), f"data.traces={file}"]))
    record = read_records(file)[0]
    with pytest.raises(DataError, match=r"record 0, video 'v', .*, frames: expected 41, those of the video, found 40"):
        to_trajectory(record, task_of(41), CONFIG)


def test_where_a_record_was_read_is_not_written(tmp_path: Path):
    file = tmp_path / "traces.json"
    file.write_text(json.dumps([row([0, 3])]))
    (record,) = read_records(file)
    assert record.where == f"{file}: record 0" and "where" not in to_json(record)
    write_records(tmp_path / "again.json", [record])
    assert read_records(tmp_path / "again.json") == [record], "it is another file, and the same record"
