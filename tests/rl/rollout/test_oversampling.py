"""Training with oversampling: a run that stops while it replaces groups and is resumed equals an uninterrupted one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from configs.schema import RunConfig
from cot_data.datasets.mixture import Mixture
from cot_data.datasets.training_sources import load_source, training_sources
from env.store import TrajectoryStore
from env.types import Scores, Trajectory
from rl import grpo
from rl.rollout.task_stream import TaskStream
from rl.runtime.checkpoint import latest_checkpoint, load_state
from tests.helpers.closeness import BACKWARD
from tests.helpers.pool_in_process import PoolInProcess, PowerCut
from tests.helpers.rl_parts import Micro, read_lines

STEPS, PER_STEP, OVERSAMPLING, GROUP = 3, 2, 2, 2
SETTINGS = (
    f"grpo.tasks_per_step={PER_STEP}",
    f"grpo.max_oversampling={OVERSAMPLING}",
    f"grpo.group_size={GROUP}",
    "grpo.save_every=1",
    "grpo.lr_decays=false",
    "grpo.kl_coef=0",
    "grpo.lr=3.0e-4",
    "sampler.kind=hf",
    "env.max_seconds=3600",
)
pytestmark = pytest.mark.timeout(1200)


def tied(config: RunConfig) -> set[str]:
    """Return the two tasks that step 0 samples first, one of those that follow, and the first of step 1."""
    tasks = Mixture([load_source(source) for source in training_sources(config.data)], [1.0])
    sampled = TaskStream(tasks, PER_STEP, config.seed).take(5, 0).tasks
    return {sampled[at].task_id for at in (0, 1, 2, 4)}


def test_a_run_that_stopped_while_oversampling_resumes_exactly(
    micro: Micro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole, cut = (micro.config(tmp_path / name, [*SETTINGS, f"grpo.steps={STEPS}"]) for name in ("whole", "cut"))
    equal = tied(whole)

    def score(trajectory: Trajectory, weights: Mapping[str, float]) -> Scores:
        total = 1.0 if trajectory.task.task_id in equal else float(trajectory.sibling)
        return Scores(total, {"format": total})

    monkeypatch.setattr("rl.learner.advantage.score", score)
    monkeypatch.setattr(grpo, "RolloutPool", PoolInProcess)
    monkeypatch.setattr(grpo, "connect_ray", lambda config, has_gpu: None)
    grpo.train(whole)
    rows = read_lines(Path(whole.run_dir) / "metrics.jsonl")
    assert [row["rollout/oversampled"] for row in rows[:2]] == [2, 1]
    first = [item for item in TrajectoryStore(f"{whole.run_dir}/trajectories").read() if item.step == 0]
    assert len(first) == OVERSAMPLING * PER_STEP * GROUP
    assert all(item.scores is not None for item in first), (
        "groups that were not trained on are stored with their scores too"
    )
    assert rows[0]["reward/dead_groups/share"] == 0.75, "metrics are of all sampled groups"
    assert rows[0]["optim/grad_norm"] > 0
    cursor = load_state(Path(whole.run_dir) / "checkpoints" / "step-000002")["cursor"]
    assert cursor >= 4 + 3, "the sampled tasks, and the skipped ones"

    monkeypatch.setattr(PoolInProcess, "cut_at", 1)  # in step 0, before there is any checkpoint
    with pytest.raises(PowerCut):
        grpo.train(cut)
    monkeypatch.setattr(PoolInProcess, "cut_at", 4)  # the second round of step 1, after one of its two trajectories
    with pytest.raises(PowerCut):
        grpo.train(cut, resume=True)
    monkeypatch.setattr(PoolInProcess, "cut_at", None)
    assert latest_checkpoint(Path(cut.run_dir)).name == "step-000001"
    kept = [item.trajectory_id for item in TrajectoryStore(f"{cut.run_dir}/pending/step-000001").read()]
    assert len(kept) == PER_STEP * GROUP + 1
    grpo.train(cut, resume=True)
    assert not set(kept) & set(PoolInProcess.finished), "finished episodes are not run again"

    again = read_lines(Path(cut.run_dir) / "metrics.jsonl")
    assert [row["step"] for row in again] == list(range(STEPS))
    for ours, theirs in zip(again, rows, strict=True):
        for name in ("loss/policy", "loss/masks", "optim/grad_norm", "rollout/oversampled", "reward/total/mean"):
            assert ours[name] == pytest.approx(theirs[name], rel=BACKWARD, abs=BACKWARD), (theirs["step"], name)
    written = [
        [(item.trajectory_id, item.advantage) for item in TrajectoryStore(f"{config.run_dir}/trajectories").read()]
        for config in (whole, cut)
    ]
    assert written[0] == written[1]
    cursors = [load_state(latest_checkpoint(Path(config.run_dir)))["cursor"] for config in (whole, cut)]
    assert cursors[0] == cursors[1]
