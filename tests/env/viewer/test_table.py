"""The table, its filters, and text that must not control the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from env.replay import main
from env.store import TrajectoryStore
from env.types import Scores, StopReason, Trajectory
from env.viewer.table import Filter, frames_shown, plain, summary
from tests.helpers.replay_samples import answer_text, box, episode, select_text, small_task


def write_run(folder: Path) -> list[Trajectory]:
    """Write three trajectories of steps 0, 1 and 2: answered, malformed, and failed before the first turn."""
    task = small_task(folder / "video")
    good = Scores(2.5, {"format": 1.0})
    bad = Scores(-0.5, {"format": -1.0})
    trajectories = [
        episode(task, [select_text(10, 19, 15), answer_text(10, 19, 12)], {}, step=0, scores=good),
        episode(task, ["no tags at all"], {}, step=1, scores=bad),
        Trajectory("2/lost", task, step=2, sibling=0, error="frame is missing"),
    ]
    TrajectoryStore(folder / "trajectories").append(trajectories)
    return trajectories


@pytest.mark.parametrize(
    ("wanted", "steps"),
    [
        (Filter(), [0, 1, 2]),
        (Filter(min_reward=0.0), [0]),
        (Filter(max_reward=0.0), [1]),
        (Filter(min_reward=-0.5, max_reward=2.5), [0, 1]),
        (Filter(stop=StopReason.ERROR), [2]),
        (Filter(query="BRIGHT"), [0, 1, 2]),
        (Filter(query="dark"), []),
        (Filter(trajectory_id="lost"), [2]),
        (Filter(steps=(1, None)), [1, 2]),
        (Filter(steps=(0, 2), max_reward=1.0), [1]),
    ],
)
def test_filter(tmp_path, wanted: Filter, steps: list[int]):
    assert [one.step for one in filter(wanted, write_run(tmp_path))] == steps


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x1b[31mred\x1b[0m", "ared"),
        ("a\x1b]0;title\x07b", "ab"),
        ("a\x1b]8;;http://x\x1b\\link", "alink"),
        ("a\x9b31mb\x00\x08c\x7f", "a31mbc"),
        ("one\r\ntwo\tthree", "one  two three"),
        ("a\u202eb\u200bc\ud800d", "abcd"),
        ("[bold]kept[/bold]", "[bold]kept[/bold]"),
    ],
)
def test_plain_removes_control_sequences(text: str, expected: str):
    assert plain(text) == expected


def test_plain_cuts_long_text():
    assert plain("x" * 500, limit=10) == "x" * 7 + "..."


def test_summary_and_frames_shown(tmp_path):
    trajectories = write_run(tmp_path)
    assert summary(trajectories) == (
        "3 trajectories: answered 1, malformed 1, error 1; mean reward 1.000 over 2 scored; mean turns 1.00; "
        "failed: frame is missing (1)"
    )
    assert summary([]) == "0 trajectories"
    first, second = trajectories[0].turns
    assert frames_shown(first.observation) == "strip 10 (0..39), detail 5 (0..39)"
    assert frames_shown(second.observation) == "zoom 5 (10..19), key 15"


def test_a_trajectory_without_turns_has_one_row(tmp_path, capsys):
    task = small_task(tmp_path / "video")
    masks = {idx: box(8, 8, 24, 36) for idx in range(10, 20)}
    one = Trajectory("-1/made/0", task, -1, 0, stop_reason=StopReason.SINGLE_PASS, masks=masks)
    TrajectoryStore(tmp_path / "trajectories").append([one])
    assert main([str(tmp_path), "--stop", "single_pass"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "masks on 10 of 40 frames" in printed and "1 trajectory: single_pass 1; no rewards; mean turns -" in printed
    answered = episode(task, [select_text(10, 19, 15), answer_text(10, 19, 12)], {})
    assert summary([one, answered]).endswith("answered 1, single_pass 1; no rewards; mean turns 2.00")


def test_the_command_prints_a_row_per_turn(tmp_path, capsys):
    write_run(tmp_path)
    assert main([str(tmp_path), "--step", "0:2"]) == 0
    printed = capsys.readouterr().out
    assert [word in printed for word in ("[10, 20)", "select", "malformed: no_seg", "2.500", "-0.500")] == [True] * 5
    assert "frame is missing" not in printed
    assert "2 trajectories: answered 1, malformed 1; mean reward 1.000" in printed
    assert main([str(tmp_path / "trajectories"), "--limit", "1", "--stop", "error"]) == 0
    assert "frame is missing" in capsys.readouterr().out


def test_markup_and_escapes_in_stored_text_stay_text(tmp_path, capsys):
    task = small_task(tmp_path / "video", "[red]the \x1b[31mbox[/red]")
    lost = Trajectory("0/a", task, 0, 0, error="[/nonsense] \x1b[2J")
    TrajectoryStore(tmp_path / "trajectories").append([lost])
    assert main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "[red]the box[/red]" in printed
    assert "[/nonsense]" in printed
    assert "\x1b" not in printed


def test_a_folder_without_a_store_is_named(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "expected a run with trajectories/trajectories.jsonl" in capsys.readouterr().err
    assert main([]) == 2
    assert "expected RUN" in capsys.readouterr().err


def test_a_bad_step_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--step", "two"])
    assert "--step" in capsys.readouterr().err
