"""Stores by hand: every damaged form is one sentence, or is read and shown; no small row fills the memory."""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from env import replay
from env.errors import DataError
from env.frames import FrameCache
from env.rows import task_to_row, trajectory_to_row
from env.store import TrajectoryStore
from env.types import MAX_FRAMES, MAX_PIXELS, Trajectory
from env.viewer.page import render_page
from env.viewer.table import print_table
from tests.env.test_store import FULL_TASK, full_trajectory
from tests.helpers.damage import damaged, truncated

ROWS = {"tasks.jsonl": task_to_row(FULL_TASK), "trajectories.jsonl": trajectory_to_row(full_trajectory())}


def store_of(folder: Path, **changed: Any) -> TrajectoryStore:
    """Write a store of one trajectory; `tasks` or `trajectories` replaces its row."""
    for name, row in ROWS.items():
        (folder / name).write_text(json.dumps(changed.get(name.removesuffix(".jsonl"), row)) + "\n")
    return TrajectoryStore(folder)


def show(trajectories: list[Trajectory]) -> None:
    out = Console(file=io.StringIO(), width=200)
    print_table(trajectories, out)
    assert "\x1b" not in out.file.getvalue()  # type: ignore[attr-defined]
    render_page(trajectories, "t", {}, FrameCache())


@pytest.mark.parametrize("kind", ["tasks", "trajectories"])
def test_every_damaged_row_is_one_sentence_or_can_be_shown(kind: str, tmp_path: Path) -> None:
    num_refused = num_read = 0
    for what, row in damaged(ROWS[f"{kind}.jsonl"]):
        try:
            (trajectory,) = store_of(tmp_path, **{kind: row}).read()
        except DataError as error:
            assert "\n" not in str(error) and len(str(error)) < 600, what
            assert f"{kind}.jsonl:1" in str(error) or "trajectories.jsonl:1: field `task_id`" in str(error), what
            num_refused += 1
            continue
        num_read += 1
        if num_read % 50 == 0 or what.startswith("('masks', 0, 'counts"):
            try:
                show([trajectory])
            except DataError as error:
                assert "trajectory 3/demo/clip/0/1" in str(error) and "counts" in what, what
    assert num_refused > 400 and num_read < num_refused / 2, (num_refused, num_read)


@pytest.mark.parametrize("name", ROWS)
def test_a_store_cut_at_any_tenth_is_read_without_its_last_line(name: str, tmp_path: Path) -> None:
    store_of(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for part in truncated(whole):
        store_of(tmp_path)
        (tmp_path / name).write_bytes(part)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if name == "tasks.jsonl":
                with pytest.raises(DataError, match="there is no task"):
                    list(TrajectoryStore(tmp_path).read())
            else:
                assert list(TrajectoryStore(tmp_path).read()) == []


VIDEO = ROWS["tasks.jsonl"]["video"]
FILE = {**VIDEO, "frames": []}
PART = {"text": "", "frame": {"frame_idx": 0, "width": 8, "height": 8, "role": "zoom", "region": []}}
BOMBS: dict[str, tuple[str, dict[str, Any], str]] = {
    "num_gold": ("tasks", {"num_gold": 10**12}, "`num_gold`: expected 0 or the 3 frames of the video"),
    "num_gold beside num_frames": (
        "tasks",
        {"num_gold": 10**12, "video": {**FILE, "num_frames": 10**12}},
        f"`num_frames`: expected 1 to {MAX_FRAMES}",
    ),
    "no frames": ("tasks", {"num_gold": 0, "gold": [], "video": {**FILE, "num_frames": 0}}, "`num_frames`: expected 1"),
    "fewer names": ("tasks", {"num_gold": 0, "gold": [], "video": {**VIDEO, "num_frames": 9}}, "expected 9 names"),
    "width": ("tasks", {"video": {**VIDEO, "width": 2**40}}, f"`width`: expected 1 to {MAX_PIXELS}"),
    "area": ("tasks", {"video": {**VIDEO, "width": 2**14, "height": 2**14}}, f"at most {MAX_PIXELS} pixels"),
    "stride": ("tasks", {"video": {**VIDEO, "stride": 0}}, f"`stride`: expected 1 to {MAX_FRAMES}"),
    "evidence": ("tasks", {"evidence": [3]}, "`evidence`: expected frames 0 to 2"),
    "mask": ("trajectories", {"masks": [{"frame": 0, "height": 2**14, "width": 2**14, "counts": ""}]}, "pixels"),
    "mask of no frame": ("trajectories", {"masks": [{"frame": 3, "height": 1, "width": 1, "counts": ""}]}, "0 to 2"),
    "mask twice": ("trajectories", {"masks": [ROWS["trajectories.jsonl"]["masks"][0]] * 2}, "one mask of frame"),
    "token": (
        "trajectories",
        {"turns": [{**ROWS["trajectories.jsonl"]["turns"][0], "token_ids": [3, -1]}]},
        "`token_ids`: expected ids of tokens, from 0, found -1 to 3",
    ),
    "observed token": (
        "trajectories",
        {"turns": [{**ROWS["trajectories.jsonl"]["turns"][0], "observation_ids": [2**31]}]},
        "`observation_ids`: expected ids of tokens",
    ),
    "step": ("trajectories", {"step": 10**300}, "`step`: expected -1 to"),
    "sibling": ("trajectories", {"sibling": -1}, "`sibling`: expected 0 to"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_one_sentence_at_once(kind: str, tmp_path: Path) -> None:
    name, changes, problem = BOMBS[kind]
    store = store_of(tmp_path, **{name: {**ROWS[f"{name}.jsonl"], **changes}})
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=problem):
        list(store.read())
    assert time.monotonic() - begin < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


TURN = ROWS["trajectories.jsonl"]["turns"][0]
NOWHERE = {
    "decision": {"decision": {**TURN["decision"], "end": 4}},
    "key frame": {"decision": {**TURN["decision"], "key_frame": 3}},
    "frame": {"parts": [{**PART, "frame": {**PART["frame"], "frame_idx": 3}}]},
    "key mask": {"key_masks": [{"frame": 3, "height": 1, "width": 1, "counts": "0"}]},
}


@pytest.mark.parametrize("kind", NOWHERE)
def test_a_turn_names_only_frames_of_its_video(kind: str, tmp_path: Path) -> None:
    row = {**ROWS["trajectories.jsonl"], "turns": [TURN, {**TURN, **NOWHERE[kind]}]}
    with pytest.raises(DataError, match="`turns`: turn 1 names a frame outside of 0 to 2"):
        list(store_of(tmp_path, trajectories=row).read())


def test_what_no_reader_takes_is_not_written(tmp_path: Path) -> None:
    trajectory = full_trajectory(task=replace(FULL_TASK, expression="\udcff"))
    with pytest.raises(DataError, match=r"cannot be stored \(it has half of a surrogate pair"):
        TrajectoryStore(tmp_path).append([trajectory])
    assert list(TrajectoryStore(tmp_path).read()) == []


def test_half_pairs_in_errors_and_texts_end_no_run(tmp_path: Path) -> None:
    trajectory = full_trajectory()
    trajectory.error = "data/\udcff.jpg \U0001f600 \\ud800"
    trajectory.turns[2].action = replace(trajectory.turns[2].action, text="\ud83d")
    TrajectoryStore(tmp_path).append([trajectory])
    (read,) = TrajectoryStore(tmp_path).read()
    assert read.error == "data/?.jpg \U0001f600 \\ud800" and read.turns[2].action.text == "?"


def test_the_command_ends_with_one_plain_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store_of(tmp_path, trajectories={**ROWS["trajectories.jsonl"], "stop_reason": "\x1b]0;x\x07\x1b[31m[red]bored"})
    assert replay.main([str(tmp_path)]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and "\x1b" not in printed and "[red]bored" in printed
    (tmp_path / "config.yaml").write_text("seed: 1\nseed: 2\n")
    command = [sys.executable, "-m", "env.replay", str(tmp_path), "--html", str(tmp_path / "page.html")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "line 2 holds the key 'seed' twice" in done.stderr
