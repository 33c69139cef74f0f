"""How a checkpoint gives masks, in GRPO, in the cold start and in tracking: what is trained, and what is seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.load import load_config
from configs.schema import RunConfig, StageConfig
from cot_data.datasets import load_tasks
from cot_data.traces.dialogue import to_trajectory
from cot_data.traces.write import write_trace
from env.frames import FrameCache, FrameCaches
from env.rle import decode
from env.types import Action, Task, Trajectory
from policy import SHIPPED
from policy.videoseg.checkpoint import load_policy
from policy.videoseg.model import SegPolicy
from policy.videoseg.tracking import with_masks
from rl.learner.learner import LocalLearner
from rl.sft.loss import sft_loss
from tests.helpers.rl_parts import write_shapes
from tests.helpers.sft_parts import one_batch, stage_context

FRAMES = FrameCache()
WAYS = [("single", "blank"), ("best_of_three", "memory"), ("best_of_three", "blank"), ("single", "ignore")]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("masks"), videos=1)


@pytest.fixture(scope="module")
def task(root: Path) -> Task:
    return load_tasks("mevis", root)[1]


@pytest.fixture(scope="module")
def config(root: Path) -> RunConfig:
    sets = ("grpo.kl_coef=0", "grpo.mask_coef=1", "grpo.mask_least_iou=0", "grpo.freeze_sam=false", "grpo.lr=1e-3")
    return load_config("tiny", [*sets, "grpo.calibration=none", f"data.train_root={root}"])


def policy_of(masks: str, presence: str) -> SegPolicy:
    """The shipped policy as one that was trained in another way, whose SAM 2 says that nothing is present."""
    policy = load_policy(SHIPPED)
    policy.sam.built_from = replace(policy.sam.built_from, masks=masks, presence=presence)
    score: Any = policy.sam.sam_mask_decoder.pred_obj_score_head
    with torch.no_grad():
        score.layers[-1].bias.sub_(100)
    return policy


def group_of(policy: SegPolicy, task: Task, config: RunConfig) -> list[Trajectory]:
    record = write_trace(task, config.env, np.random.default_rng(0), "brief")
    group = [to_trajectory(record, task, config.env) for _ in range(2)]
    for turn in (turn for item in group for turn in item.turns):
        ids = tuple(policy.chat.action_ids(turn.action.text))
        turn.action = Action(turn.action.text, ids, (-1.0,) * len(ids), weights_version=0)
    return group


def moved_parts(policy: SegPolicy, before: dict[str, torch.Tensor]) -> tuple[set[int], bool]:
    """Return which mask tokens' own layers have changed, and whether the object score's have."""
    after = policy.sam.sam_mask_decoder.state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    tokens = {int(name.split(".")[1]) for name in changed if name.startswith("output_hypernetworks_mlps")}
    return tokens, any(name.startswith("pred_obj_score_head") for name in changed)


def copied(policy: SegPolicy) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in policy.sam.sam_mask_decoder.state_dict().items()}


def assign(group: list[Trajectory]) -> None:
    for trajectory, advantage in zip(group, (1.0, -1.0), strict=True):
        trajectory.advantage = advantage


@pytest.mark.parametrize(("masks", "presence"), WAYS)
def test_grpo_reads_and_trains_the_masks_of_the_checkpoint(
    masks: str, presence: str, task: Task, config: RunConfig
) -> None:
    policy = policy_of(masks, presence)
    learner = LocalLearner(policy, config, FrameCaches(FRAMES, FRAMES))
    group, before = group_of(policy, task, config), copied(policy)
    learner.learn([group], assign)  # pyright: ignore[reportArgumentType]
    shown = [decode(rle).any() for item in group for rle in item.masks.values()]
    assert any(shown) == (presence != "blank"), "rewards read these masks"
    tokens, score = moved_parts(policy, before)
    assert tokens and (tokens == {0} if masks == "single" else tokens <= {1, 2, 3})
    assert score == (presence == "blank")


@pytest.mark.parametrize(("masks", "presence"), WAYS)
def test_the_cold_start_trains_the_masks_of_the_checkpoint(
    masks: str, presence: str, task: Task, config: RunConfig, tmp_path: Path
) -> None:
    policy = policy_of(masks, presence)
    run = replace(config, run_dir=str(tmp_path))
    context = stage_context(policy, run, StageConfig(mask_coef=1.0))
    optimizer = torch.optim.SGD(policy.sam.sam_mask_decoder.parameters(), lr=0.1)
    before = copied(policy)
    loss, metrics = sft_loss(context, [one_batch(context, group_of(policy, task, run))])
    loss.backward()
    optimizer.step()
    assert metrics["loss/masks"] > 0
    tokens, score = moved_parts(policy, before)
    assert tokens and (tokens == {0} if masks == "single" else tokens <= {1, 2, 3})
    assert score == (presence == "blank")


@pytest.mark.parametrize(("masks", "presence"), WAYS)
def test_tracks_show_the_masks_of_the_checkpoint(masks: str, presence: str, task: Task, config: RunConfig) -> None:
    policy = policy_of(masks, presence)
    (item,) = with_masks(policy, group_of(policy, task, config)[:1], FrameCaches(FRAMES, FRAMES))
    assert len(item.masks) == task.video.num_frames
    assert any(decode(rle).any() for rle in item.masks.values()) == (presence != "blank")
