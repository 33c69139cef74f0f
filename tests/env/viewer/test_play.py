"""An episode in the terminal in which a person acts, with scripted input."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from env.replay import main
from env.store import TrajectoryStore
from env.types import Answer, Interval, Select, StopReason, Trajectory
from env.viewer.play import draw_frame, parse_command, play
from tests.helpers.env_videos import write_folder
from tests.helpers.replay_samples import CONFIG, answer_text, box, episode, small_task


def quiet() -> Console:
    return Console(file=io.StringIO(), width=100)


def printed_on(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def interval_only(trajectory: Trajectory) -> dict[str, float | None]:
    decision = trajectory.decision
    assert isinstance(decision, Answer | Select)
    return {"hit": float(decision.interval == Interval(10, 20)), "other": None}


def test_a_scripted_episode_is_stepped_and_scored(tmp_path):
    console = quiet()
    lines = ["jump", "zoom 9 3 4", "answer 0 40 1", "ZOOM 8 24 12", "", "answer 10 19 12"]
    trajectory = play(small_task(tmp_path / "video"), CONFIG, interval_only, console, lines)
    assert trajectory is not None
    assert [turn.decision for turn in trajectory.turns] == [
        Select(Interval(8, 25), 12),
        Answer(Interval(10, 20), 12),
    ]
    assert trajectory.stop_reason is StopReason.ANSWERED
    printed = printed_on(console)
    assert "START 9 comes after END 3" in printed
    assert "END is 40, but the last frame is 39" in printed
    assert printed.count("write `zoom START END KEY`") == 2
    assert "zoom 5 (8..24), key 12" in printed
    assert "hit: 1.000" in printed
    assert "other: does not apply" in printed


def test_the_end_of_input_ends_the_episode_cleanly(tmp_path):
    console = quiet()
    assert play(small_task(tmp_path / "video"), CONFIG, interval_only, console, ["zoom 8 24 12"]) is None
    assert "left unfinished" in printed_on(console)


def test_a_select_without_a_turn_left_ends_it(tmp_path):
    trajectory = play(small_task(tmp_path / "video"), CONFIG, interval_only, quiet(), ["zoom 8 24 12"] * 9)
    assert trajectory is not None
    assert (len(trajectory.turns), trajectory.stop_reason) == (CONFIG.max_turns, StopReason.MAX_TURNS)


@pytest.mark.parametrize("line", ["", "zoom", "zoom 1 2", "zoom 1 2 3 4", "leap 1 2 3", "zoom -1 2 3", "zoom 1 2 x"])
def test_a_bad_line_is_explained(line: str):
    with pytest.raises(ValueError, match=r"write `zoom|expected a frame"):
        parse_command(line, 40, {})


def test_digits_of_other_scripts_are_refused():
    with pytest.raises(ValueError, match="expected a frame from 0 to 39"):
        parse_command("zoom \u0661 2 3", 40, {})


def test_two_pixels_make_one_character():
    pixels_HWC = np.zeros((40, 40, 3), np.uint8)
    pixels_HWC[:20] = (255, 0, 0)
    text = draw_frame(pixels_HWC, 20, has_colour=True)
    assert [len(line) for line in text.plain.split("\n")] == [20] * 10
    assert str(text.spans[0].style) == "#ff0000 on #ff0000"
    assert str(text.spans[-1].style) == "#000000 on #000000"
    grey = draw_frame(pixels_HWC + 255, 20, has_colour=False)
    assert [len(line) for line in grey.plain.split("\n")] == [20] * 10


def write_mevis(root: Path) -> None:
    """A data set of one video and two expressions in the MeViS layout; the target is there on frames 10 to 19."""
    write_folder(root / "JPEGImages" / "v", 40)
    expressions = {"0": {"exp": "the dark box", "anno_id": [1]}, "1": {"exp": "the bright box", "anno_id": [1]}}
    video = {"frames": [f"{idx:05d}" for idx in range(40)], "expressions": expressions}
    (root / "meta_expressions.json").write_text(json.dumps({"videos": {"v": video}}))
    masks = [box(8, 8, 24, 40) if 10 <= idx < 20 else None for idx in range(40)]
    (root / "mask_dict.json").write_text(json.dumps({"1": masks}))


def test_the_command_plays_a_data_root(tmp_path, capsys, monkeypatch):
    write_mevis(tmp_path / "data")
    monkeypatch.setattr(sys, "stdin", io.StringIO("zoom 8 24 12\nanswer 10 14 12\n"))
    assert main(["--play", str(tmp_path / "data"), "--query", "bright"]) == 0
    printed = capsys.readouterr().out
    assert "Find: the bright box" in printed
    assert "answer: [10, 15), key frame 12" in printed
    assert "interval_iou: 0.500" in printed
    assert "key_frame: 1.000" in printed


def test_the_task_of_a_trajectory_without_turns_can_be_played(tmp_path, capsys, monkeypatch):
    one = Trajectory("-1/made/0", small_task(tmp_path / "video"), -1, 0, stop_reason=StopReason.SINGLE_PASS)
    TrajectoryStore(tmp_path / "trajectories").append([one])
    monkeypatch.setattr(sys, "stdin", io.StringIO("answer 10 19 12\n"))
    assert main([str(tmp_path), "--play"]) == 0
    assert "interval_iou: 1.000" in capsys.readouterr().out


def test_the_command_plays_a_stored_task(tmp_path, capsys, monkeypatch):
    task = small_task(tmp_path / "video")
    TrajectoryStore(tmp_path / "trajectories").append([episode(task, [answer_text(0, 3, 1)], {})])
    monkeypatch.setattr(sys, "stdin", io.StringIO("answer 10 19 12\n"))
    assert main([str(tmp_path), "--play"]) == 0
    assert "interval_iou: 1.000" in capsys.readouterr().out
    assert main([str(tmp_path), "--play", "--query", "nothing like it"]) == 2
    assert "no task passes the filter" in capsys.readouterr().err
