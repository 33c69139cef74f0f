"""Checkpoints inside a stage: whole or absent, resumed with the settings of now, and damaged ones are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.schema import StageConfig
from env.errors import CheckpointError, MachineError
from policy.videoseg.checkpoint import load_policy
from rl.sft.context import StageContext
from rl.sft.sequence_stages import train_dialogue
from rl.sft.stages import load_stage, save_stage
from rl.sft.trainer import WEIGHTS, checkpoints
from tests.helpers.full_disk import no_file_longer_than
from tests.helpers.rl_parts import Micro
from tests.helpers.sft_parts import stage_context

STAGE = StageConfig(steps=4, batch_size=2, lr=1e-3, mask_coef=0.0)
FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


def context_in(micro: Micro, folder: Path, stage: StageConfig = STAGE, weight_decay: float = 0.05) -> StageContext:
    config = micro.config(folder, [f"cold_start.weight_decay={weight_decay}", "cold_start.save_every=2"])
    context = stage_context(load_policy(micro.policy), config, stage)
    return replace(context, folder=folder)


def test_one_whole_checkpoint_stays(micro: Micro, tmp_path: Path):
    train_dialogue(context_in(micro, tmp_path))
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-4"]
    assert {path.name for path in (tmp_path / "checkpoint-4").iterdir()} == set(FILES)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_one_sentence(micro: Micro, tmp_path: Path, name: str):
    train_dialogue(context_in(micro, tmp_path))
    file = tmp_path / "checkpoint-4" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(
        CheckpointError, match=r"checkpoint-4: cannot be resumed from \(.*\); remove that folder"
    ) as told:
        train_dialogue(context_in(micro, tmp_path, replace(STAGE, steps=6)))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("lr", "decay"), [(0.0, 0.5), (2e-3, 0.0)])
def test_a_resumed_stage_has_the_rate_and_decay_of_its_config(micro: Micro, tmp_path: Path, lr: float, decay: float):
    first = context_in(micro, tmp_path)
    train_dialogue(first)
    resumed = context_in(micro, tmp_path, replace(STAGE, steps=6, lr=lr), decay)
    train_dialogue(resumed)
    before, after = first.policy.state_dict(), resumed.policy.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before) == (lr == 0.0)
    state = torch.load(tmp_path / "checkpoint-6" / "optimizer.pt", weights_only=True)
    assert {group["weight_decay"] for group in state["param_groups"]} == {decay, 0.0}
    assert {group["initial_lr"] for group in state["param_groups"]} == {lr}


@pytest.mark.parametrize("limit", [200_000, 1_000_000])
def test_a_full_disk_keeps_the_checkpoint_before(micro: Micro, tmp_path: Path, limit: int):
    train_dialogue(context_in(micro, tmp_path))
    told = pytest.raises(MachineError, match=r"cannot be written \(.+start again")
    with no_file_longer_than(limit), told:
        train_dialogue(context_in(micro, tmp_path, replace(STAGE, steps=6)))
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-4"] and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["policy.safetensors", "rng.safetensors"])
def test_a_damaged_stage_is_one_sentence(micro: Micro, tmp_path: Path, name: str):
    context = context_in(micro, tmp_path)
    save_stage(tmp_path, context.policy, None)
    torch.manual_seed(5)
    load_stage(tmp_path, context.policy, None)
    file = tmp_path / name
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=rf"{name}: .*"):
        load_stage(tmp_path, context.policy, None)


def test_random_numbers_go_on_where_the_stage_ended(micro: Micro, tmp_path: Path):
    context = context_in(micro, tmp_path)
    torch.manual_seed(1)
    torch.rand(3)
    save_stage(tmp_path, context.policy, None)
    expected = torch.rand(4)
    torch.manual_seed(1)
    load_stage(tmp_path, context.policy, None)
    assert torch.equal(torch.rand(4), expected)
    assert WEIGHTS in FILES
