"""The controls of GRPO: rewards shuffled within each group, and the shipped checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from configs.load import load_config
from env.errors import CheckpointError
from env.types import Scores, StopReason, Task, Trajectory, VideoRef
from policy import SHIPPED
from policy.export_shipped import ship
from policy.videoseg.checkpoint import load_policy
from rl.learner import advantage
from tests.helpers.rl_parts import Micro

RETURNS = (0.0, 1.0, 2.0, 3.0, 5.0, 8.0)


def advantages(monkeypatch: pytest.MonkeyPatch, overrides: Sequence[str]) -> list[float]:
    """Return the advantages of a group whose returns are `RETURNS`, in order."""
    frames = tuple(f"{t:05d}" for t in range(4))
    task = Task("set/v/0", VideoRef("/nowhere", "v", frames, 4, 64, 64), "the dog", ())
    group = [Trajectory(f"3/{task.task_id}/{g}", task, 3, g, stop_reason=StopReason.ANSWERED) for g in range(6)]
    by_id = {item.trajectory_id: value for item, value in zip(group, RETURNS, strict=True)}
    monkeypatch.setattr(advantage, "score", lambda item, weights: Scores(by_id[item.trajectory_id], {}))
    advantage.assign_advantages(group, load_config("smoke", [*overrides]))
    return [item.advantage for item in group if item.advantage is not None]


def test_shuffled_rewards_are_the_same_rewards_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = advantages(monkeypatch, [])
    shuffled = advantages(monkeypatch, ["grpo.shuffle_rewards=true"])
    assert plain == sorted(plain) and shuffled != plain and sorted(shuffled) == pytest.approx(plain)
    assert advantages(monkeypatch, ["grpo.shuffle_rewards=true"]) == shuffled, "a resumed run shuffles in the same way"
    assert advantages(monkeypatch, ["grpo.shuffle_rewards=true", "seed=1"]) != shuffled


def test_a_shipped_checkpoint_is_half_as_large_and_loads_as_float32(micro: Micro, tmp_path: Path) -> None:
    ship(micro.policy, tmp_path / "out")
    size = [
        sum(path.stat().st_size for path in root.rglob("*.safetensors")) for root in (micro.policy, tmp_path / "out")
    ]
    assert size[1] < 0.55 * size[0]
    before, after = load_policy(micro.policy).state_dict(), load_policy(tmp_path / "out").state_dict()
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        assert tensor.dtype == before[name].dtype
        torch.testing.assert_close(tensor, before[name], rtol=1e-3, atol=1e-4)
    with pytest.raises(CheckpointError, match=r"no policy\.json"):
        ship(tmp_path, tmp_path / "again")


def test_the_shipped_checkpoint_is_complete_and_small() -> None:
    policy = load_policy(SHIPPED)
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.float32}
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 16e6
    assert {t.dtype for t in load_file(SHIPPED / "vlm" / "model.safetensors").values()} == {torch.float16}
    assert json.loads((SHIPPED / "policy.json").read_text())["sam"]["hidden"] == load_config("tiny").policy.sam.hidden
    assert "commit" in (SHIPPED / "README.md").read_text()
