"""Rewards computed again from stored trajectories."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from configs.load import config_text
from configs.schema import RunConfig
from env.files import write_text
from env.replay import main
from env.store import TrajectoryStore
from env.types import Scores, Trajectory
from rewards import score
from tests.helpers.replay_samples import answer_text, box, episode, select_text, small_task

WEIGHTS = RunConfig().rewards


def write_run(folder: Path, change: Scores | None = None, with_config: bool = True) -> None:
    task = small_task(folder / "video")
    masks = {idx: box(8, 8, 24, 36) for idx in range(10, 20)}
    trajectories = [
        episode(task, [select_text(5, 25, 12), answer_text(10, 19, 12)], masks, sibling=sibling) for sibling in (0, 1)
    ]
    for trajectory in trajectories:
        trajectory.scores = score(trajectory, WEIGHTS)
    if change is not None:
        trajectories[1].scores = change
    lost = Trajectory("0/lost", task, 0, 2, error="gone")
    TrajectoryStore(folder / "trajectories").append([*trajectories, lost])
    if with_config:
        write_text(folder / "config.yaml", config_text(RunConfig()))


def right_scores(folder: Path) -> Scores:
    write_run(folder)
    scores = next(TrajectoryStore(folder / "trajectories").read()).scores
    assert scores is not None
    return scores


def test_unchanged_rewards_agree(tmp_path, capsys):
    write_run(tmp_path)
    assert main([str(tmp_path), "--rescore"]) == 0
    assert "2 rescored (weights of config.yaml), 0 differ, 1 had no scores" in capsys.readouterr().out


def test_a_changed_part_and_total_are_reported(tmp_path, capsys):
    right = right_scores(tmp_path / "right")
    part = right.breakdown["tracklet_jf"]
    assert part is not None
    changed = Scores(right.total + 2 * 0.25, {**right.breakdown, "tracklet_jf": part + 0.25})
    write_run(tmp_path / "changed", changed)
    assert main([str(tmp_path / "changed"), "--rescore"]) == 1
    printed = capsys.readouterr().out
    assert f"tracklet_jf: stored {part + 0.25:.12g}, now {part:.12g}" in printed
    assert f"total: stored {right.total + 0.5:.12g}, now {right.total:.12g}" in printed
    assert "interval_iou" not in printed


def test_differences_up_to_1e_9_are_rounding(tmp_path):
    right = right_scores(tmp_path / "right")
    write_run(tmp_path / "close", replace(right, total=right.total + 5e-10))
    assert main([str(tmp_path / "close"), "--rescore"]) == 0
    write_run(tmp_path / "far", replace(right, total=right.total + 2e-9))
    assert main([str(tmp_path / "far"), "--rescore"]) == 1


def test_without_a_config_parts_are_compared(tmp_path, capsys):
    right = right_scores(tmp_path / "right")
    write_run(tmp_path / "total", replace(right, total=99.0), with_config=False)
    assert main([str(tmp_path / "total"), "--rescore"]) == 0
    assert "no config.yaml, so totals are not compared" in capsys.readouterr().out
    write_run(tmp_path / "part", replace(right, breakdown={**right.breakdown, "format": 0.5}), with_config=False)
    assert main([str(tmp_path / "part"), "--rescore"]) == 1


def test_rewards_on_one_side_only_are_reported(tmp_path, capsys):
    right = right_scores(tmp_path / "right")
    parts = {name: value for name, value in right.breakdown.items() if name != "format"}
    write_run(tmp_path / "other", replace(right, breakdown={**parts, "charm": 1.0}))
    assert main([str(tmp_path / "other"), "--rescore"]) == 1
    printed = capsys.readouterr().out
    assert "charm: stored 1, not computed now" in printed
    assert "format: not stored, now" in printed
