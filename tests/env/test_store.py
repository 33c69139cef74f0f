"""The trajectory store: it reads back what was written, after crashes, resumes and with bad lines."""

import json
import os
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from env.errors import DataError, MachineError
from env.rows import VERSION
from env.store import TrajectoryStore, task_from_row, task_to_row, trajectory_from_row, trajectory_to_row
from env.types import (
    Action,
    Answer,
    FrameRef,
    Interval,
    Malformed,
    Observation,
    Scores,
    Select,
    StopReason,
    Task,
    Trajectory,
    Turn,
    VideoRef,
)
from tests.helpers.full_disk import no_file_longer_than

COUNTS = "P6Ph0Pj2"  # a square
MASK = {"size": [48, 80], "counts": COUNTS}
FULL_TASK = Task(
    task_id="demo/clip/0",
    video=VideoRef("data", "clip", ("00000", "00001", "00002"), 3, 48, 80),
    expression='the "d\u00f6g"\n\u72d7',
    gold=(MASK, None, MASK),
    family="motion",
    explore="brief_event",
    evidence=(1, 2),
    caption="red circle",
    subset="reasoning",
)
PLAIN_TASK = Task("demo/clip/1", VideoRef("data", "v.mp4", (), 3, 48, 80, stride=4), "", ())
ABSENT_TASK = Task("demo/clip/2", PLAIN_TASK.video, "no dog", (None, None, None), family="no_target")


def full_trajectory(trajectory_id="3/demo/clip/0/1", step=3, task=FULL_TASK, version=VERSION):
    """Return a trajectory with no field at its default, as far as the schema of `version` has the field."""
    frames = tuple(FrameRef(i % 3, 32, 64, role) for i, role in enumerate(("strip", "detail", "zoom", "key")))
    arguments = {}
    if version >= 3:
        frames += (FrameRef(1, 32, 64, "a_tool", (1, 2, 30, 40)),)
        arguments = {"box": (1, -2, 3, 4), "count": (5,)}
    turns = [
        Turn(
            observation=Observation(("a ", *frames, "", " b"), "system"),
            action=Action("<think>\u72d7</think>", (7, 9, 2), (-0.1, -1e-12, -3.0), 12, "stop"),
            decision=Select(Interval(0, 2), 1, arguments),
            observation_ids=(1, 5, 5),
            old_logprobs=(-0.1, -0.2, 0.1 + 0.2),
            key_mask=MASK,
            mask_logprob=-0.25,
        ),
        Turn(
            Observation(frames),
            Action("x", finish="length"),
            Malformed("cut_off", "d"),
            (),
            (),
            MASK,
            0.0,
            mask_frame=2,
        ),
        Turn(Observation(()), Action(""), Answer(Interval(2, 3), 2)),
    ]
    return Trajectory(
        trajectory_id=trajectory_id,
        task=task,
        step=step,
        sibling=1,
        turns=turns,
        stop_reason=StopReason.ANSWERED,
        error="e",
        masks={2: MASK, 0: MASK},
        scores=Scores(1.5, {"format": 1.0, "mask_iou": None, "zero": 0.0}),
        advantage=-0.5,
    )


def bare_trajectory(trajectory_id="a", step=-1, task=PLAIN_TASK):
    return Trajectory(trajectory_id, task, step, 0)


def test_trajectories_read_back(tmp_path):
    written = [full_trajectory(), bare_trajectory(), bare_trajectory("b", 4, ABSENT_TASK)]
    written[2].scores = Scores(0.0, {})
    written[2].advantage = 0.0
    TrajectoryStore(tmp_path / "run").append(written)
    assert list(TrajectoryStore(tmp_path / "run").read()) == written


@pytest.mark.parametrize("task", [FULL_TASK, PLAIN_TASK, ABSENT_TASK])
def test_task_rows_read_back(task):
    assert task_from_row(json.loads(json.dumps(task_to_row(task)))) == task


@pytest.mark.parametrize("reason", StopReason)
def test_trajectory_rows_read_back(reason):
    trajectory = replace(full_trajectory(), stop_reason=reason)
    row = json.loads(json.dumps(trajectory_to_row(trajectory)))
    assert trajectory_from_row(row, {FULL_TASK.task_id: FULL_TASK}) == trajectory


def test_byte_counts_become_text(tmp_path):
    store = TrajectoryStore(tmp_path)
    given = {"size": (48, 80), "counts": COUNTS.encode()}
    store.append([replace(bare_trajectory(), masks={1: given}, task=replace(PLAIN_TASK, gold=(given, None, None)))])
    (read,) = store.read()
    assert read.masks == {1: MASK} and read.task.gold == (MASK, None, None)


def test_all_rows_have_one_schema():
    def schema(value):
        if isinstance(value, dict):
            return {key: schema(item) for key, item in value.items()}
        if isinstance(value, list):
            kinds = [schema(item) for item in value]
            assert all(kind == kinds[0] for kind in kinds)
            return ["*"]
        assert value is not None
        return type(value).__name__

    assert schema(trajectory_to_row(full_trajectory())) == schema(trajectory_to_row(bare_trajectory()))
    assert schema(task_to_row(FULL_TASK)) == schema(task_to_row(PLAIN_TASK))
    many = trajectory_to_row(full_trajectory())["turns"] + trajectory_to_row(full_trajectory())["turns"]
    assert len({json.dumps(schema(turn)) for turn in many}) == 1


def test_tasks_are_written_once(tmp_path):
    store = TrajectoryStore(tmp_path)
    store.append([full_trajectory("a"), full_trajectory("b")])
    store.append([full_trajectory("c")])
    TrajectoryStore(tmp_path).append([full_trajectory("d"), bare_trajectory("e")])
    assert len(store.tasks_path.read_text().splitlines()) == 2
    assert [trajectory.trajectory_id for trajectory in store.read()] == ["a", "b", "c", "d", "e"]


def test_nothing_is_written_twice(tmp_path):
    store = TrajectoryStore(tmp_path)
    store.append([full_trajectory("a")])
    before = store.trajectories_path.read_bytes()
    for writer in (store, TrajectoryStore(tmp_path)):
        for batch in (["a"], ["b", "b"], ["b", "a"]):
            with pytest.raises(DataError, match="ids must be unique"):
                writer.append([full_trajectory(name) for name in batch])
        with pytest.raises(DataError, match="differs from that in"):
            writer.append([full_trajectory("b", task=replace(FULL_TASK, expression="the cat"))])
    assert store.trajectories_path.read_bytes() == before


def test_numbers_must_be_finite(tmp_path):
    store = TrajectoryStore(tmp_path)
    for value in (float("nan"), float("inf")):
        with pytest.raises(DataError, match="trajectory a: cannot be stored"):
            store.append([replace(bare_trajectory("a"), advantage=value)])
    with pytest.raises(DataError, match="expected compressed RLE counts, found list"):
        store.append([replace(bare_trajectory("a"), masks={0: {"size": [2, 2], "counts": [4]}})])
    assert not store.trajectories_path.exists()


def test_an_empty_store_reads_as_nothing(tmp_path):
    store = TrajectoryStore(tmp_path / "none")
    assert list(store.read()) == []
    store.drop_from(0)
    store.append([])
    assert list(store.read()) == []


def test_an_unfinished_last_line_is_skipped_then_cut_off(tmp_path):
    TrajectoryStore(tmp_path).append([full_trajectory("a"), full_trajectory("b")])
    path = TrajectoryStore(tmp_path).trajectories_path
    data = path.read_bytes()
    first = data.index(b"\n") + 1
    for cut in (first + 1, first + 1000, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.warns(UserWarning, match=r"trajectories\.jsonl:2: left out an unfinished last line"):
            assert [trajectory.trajectory_id for trajectory in TrajectoryStore(tmp_path).read()] == ["a"]
        with pytest.warns(UserWarning, match="unfinished"):
            TrajectoryStore(tmp_path).append([full_trajectory("b")])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert [trajectory.trajectory_id for trajectory in TrajectoryStore(tmp_path).read()] == ["a", "b"]


def test_a_full_disk_is_an_error_that_loses_nothing(tmp_path):
    store = TrajectoryStore(tmp_path)
    store.append([full_trajectory("a")])
    size = store.trajectories_path.stat().st_size
    told = pytest.raises(MachineError, match=r"trajectories\.jsonl: cannot be written \(.+\); ")
    with no_file_longer_than(size + size // 2), told:
        store.append([full_trajectory("b")])
    store.append([full_trajectory("b")])
    assert [trajectory.trajectory_id for trajectory in TrajectoryStore(tmp_path).read()] == ["a", "b"]


def test_an_unfinished_task_is_written_again(tmp_path):
    store = TrajectoryStore(tmp_path)
    store.append([full_trajectory("a")])
    store.tasks_path.write_bytes(store.tasks_path.read_bytes()[:-20])
    store.trajectories_path.unlink()
    with pytest.warns(UserWarning, match=r"tasks\.jsonl:1"):
        TrajectoryStore(tmp_path).append([full_trajectory("a")])
    assert list(TrajectoryStore(tmp_path).read()) == [full_trajectory("a")]


def test_drop_from_removes_later_steps(tmp_path):
    store = TrajectoryStore(tmp_path)
    store.append([full_trajectory(f"{step}/{i}", step) for step in (0, 1, 2, 3) for i in (0, 1)])
    store.drop_from(2)
    assert [trajectory.trajectory_id for trajectory in store.read()] == ["0/0", "0/1", "1/0", "1/1"]
    store.append([full_trajectory("2/0", 2)])  # may be written again
    assert [trajectory.step for trajectory in store.read()] == [0, 0, 1, 1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tasks.jsonl", "trajectories.jsonl"]


KILLED = """
import sys
import time
from pathlib import Path
from env.store import TrajectoryStore
from tests.env.test_store import full_trajectory
store = TrajectoryStore(Path(sys.argv[1]))
print("begin", flush=True)
while True:
    store.drop_from(50)
    store.append([full_trajectory(f"{step}/0", step) for step in range(50, 60)])
"""


def test_a_kill_in_drop_from_loses_no_earlier_step(tmp_path):
    TrajectoryStore(tmp_path).append([full_trajectory(f"{step}/0", step) for step in range(50)])
    for seconds in (0.0, 0.003, 0.011, 0.02, 0.047, 0.1):
        command = [sys.executable, "-c", KILLED, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(seconds)
            process.kill()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a torn last line
            steps = [trajectory.step for trajectory in TrajectoryStore(tmp_path).read()]
        assert steps[:50] == list(range(50)) and len(steps) == len(set(steps))


def test_appended_rows_are_on_disk_when_append_returns(tmp_path, monkeypatch):
    store = TrajectoryStore(tmp_path)
    flushed = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: (flushed.append(os.readlink(f"/proc/self/fd/{handle}")), real(handle))
    )
    store.append([full_trajectory("a")])
    names = [Path(path).name for path in flushed]
    assert names.index("tasks.jsonl") < names.index("trajectories.jsonl"), "a task is there before who names it"
    flushed.clear()
    store.append([full_trajectory("b")])
    assert [Path(path).name for path in flushed][-1] == "trajectories.jsonl"


def test_a_dropped_task_may_come_back_changed(tmp_path):
    store = TrajectoryStore(tmp_path)
    store.append([full_trajectory("0/0", 0), bare_trajectory("1/1", 1)])
    store.drop_from(1)
    changed = replace(PLAIN_TASK, expression="a cat")
    store.append([bare_trajectory("1/1", 1, changed)])
    assert [trajectory.task for trajectory in store.read()] == [FULL_TASK, changed]


def as_version(row: dict, version: int) -> dict:
    """Return the row as a release with that version of the schema wrote it."""
    row = {**row, "version": version}
    if version < 2:
        row.pop("subset", None)
        row.get("video", {}).pop("stride", None)
    for turn in row.get("turns", ()):
        del turn["decision"]["arguments"]
        for part in turn["parts"]:
            del part["frame"]["region"]
    return row


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_store_is_read_and_appended_to(tmp_path, version):
    store = TrajectoryStore(tmp_path)
    task = replace(FULL_TASK, subset="") if version < 2 else FULL_TASK
    store.append([full_trajectory("a", task=task, version=version)])
    for path in (store.tasks_path, store.trajectories_path):
        path.write_text(json.dumps(as_version(json.loads(path.read_text()), version)) + "\n")
    written = [full_trajectory("a", task=task, version=version), full_trajectory("b", task=task)]
    TrajectoryStore(tmp_path).append(written[1:])
    assert list(TrajectoryStore(tmp_path).read()) == written


def test_a_reader_sees_only_lines_that_were_there_when_it_began(tmp_path):
    store = TrajectoryStore(tmp_path)
    store.append([full_trajectory("a"), full_trajectory("b")])
    reading = store.read()
    assert next(reading).trajectory_id == "a"
    store.append([bare_trajectory("c")])  # with a task that this reader has not seen
    assert [trajectory.trajectory_id for trajectory in reading] == ["b"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("{", "Expecting property name"),
        ("[]", "expected a JSON object, found list"),
        ("", "Expecting value"),
        ("[" * 100_000, "nested too deeply"),
        ({"version": VERSION + 1}, f"field `version`: expected 1 to {VERSION}, found {VERSION + 1}"),
        ({"version": True}, "field `version`: expected int, found True"),
        ({"step": "3"}, "field `step`: expected int, found '3'"),
        ({"step": None}, "field `step`: expected int, found None"),
        ({"turns": [1]}, "field `turns`: expected a list of dict, it holds 1"),
        ({"turns": [{}]}, "field `finish`: missing"),
        ({"stop_reason": "bored"}, "'bored' is not a valid StopReason"),
        ({"task_id": "other"}, "there is no task 'other'"),
        ({"masks": [{"frame": 0}]}, "field `height`: missing"),
        ({"advantage": "high"}, "field `advantage`: expected float, found 'high'"),
    ],
)
def test_a_bad_line_is_named(tmp_path, change, problem):
    store = TrajectoryStore(tmp_path)
    store.append([full_trajectory("a"), full_trajectory("b"), full_trajectory("c")])
    lines = store.trajectories_path.read_text().splitlines()
    lines[1] = json.dumps({**json.loads(lines[1]), **change}) if isinstance(change, dict) else change
    store.trajectories_path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError) as caught:
        list(store.read())
    assert caught.value.where == f"{store.trajectories_path}:2"
    assert problem in caught.value.problem


def part_row(**changes):
    frame = {"role": "zoom", "frame_idx": 0, "width": 1, "height": 1, "region": []}
    return {"frame": {**frame, **changes}, "text": ""}


def test_bad_fields_inside_a_turn_are_named(tmp_path):
    row = trajectory_to_row(full_trajectory())
    tasks = {FULL_TASK.task_id: FULL_TASK}
    for change, problem in (
        ({"finish": "done"}, "expected stop or length"),
        ({"decision": {"kind": "nap"}}, "expected select, answer or malformed"),
        ({"decision": {"kind": "select", "start": 5, "end": 5, "key_frame": 1}}, "empty or negative"),
        ({"token_ids": [1, 2.0]}, "field `token_ids`: expected a list of int, it holds 2.0"),
        ({"parts": [part_row(role="a nap")]}, "field `role`: expected lowercase .*, found 'a nap'"),
        ({"parts": [part_row(region=[0, 0, 1])]}, "field `region`: expected left, top, right and bottom"),
        ({"parts": [part_row(region=[0, 0, 1, 1.0])]}, "field `region`: expected a list of int"),
        ({"decision": {"kind": "select", "start": 0, "end": 1, "key_frame": 0}}, "field `arguments`: missing"),
    ):
        with pytest.raises(ValueError, match=problem):
            trajectory_from_row({**row, "turns": [{**row["turns"][0], **change}]}, tasks)
    with pytest.raises(ValueError, match="field `num_gold`: expected 0 or the 3 frames of the video, found 2"):
        task_from_row({**task_to_row(FULL_TASK), "num_gold": 2})


def test_the_datasets_library_opens_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    store = TrajectoryStore(tmp_path / "run")
    store.append([full_trajectory("a"), bare_trajectory("b"), full_trajectory("c", task=ABSENT_TASK)])
    rows = datasets.load_dataset(
        "json", data_files=str(store.trajectories_path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert rows["trajectory_id"] == ["a", "b", "c"]
    assert rows[0] == trajectory_to_row(full_trajectory("a"))
    assert rows[1] == trajectory_to_row(bare_trajectory("b"))
    tasks = datasets.load_dataset(
        "json", data_files=str(store.tasks_path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert [task_from_row(dict(row)) for row in tasks] == [FULL_TASK, PLAIN_TASK, ABSENT_TASK]


def test_reading_needs_no_torch(tmp_path):
    TrajectoryStore(tmp_path).append([full_trajectory("a")])
    program = (
        "import sys; from env.store import TrajectoryStore\n"
        "assert len(list(TrajectoryStore(sys.argv[1]).read())) == 1\n"
        "heavy = {'torch', 'transformers', 'vllm', 'ray', 'datasets', 'numpy', 'av', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
