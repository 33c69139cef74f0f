"""A cold start on the traces of `cot_data.build`: it trains, also on videos of several sizes and without names."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.load import load_config
from configs.schema import SourceConfig, StageConfig
from cot_data.build import BuildOptions, build
from cot_data.datasets import load_tasks
from cot_data.moving_shapes.generate import ShapesConfig, write_moving_shapes
from cot_data.traces.claims import UNDECIDED
from cot_data.traces.dialogue import to_trajectory
from cot_data.traces.visibility import first_frames, visible_frames
from cot_data.traces.write import write_trace
from policy.videoseg.checkpoint import load_policy
from rl.sft.caption_prompts import CaptionPrompts
from rl.sft.context import StageContext
from rl.sft.loss import sft_loss
from rl.sft.mask_stage import train_masks
from rl.sft_coldstart import train
from tests.helpers.rl_parts import MICRO, Micro, read_lines, write_shapes
from tests.helpers.sft_parts import one_batch, stage_context

STAGE = StageConfig(batch_size=2, mask_coef=0.5)
FULL = (*MICRO, "env.prompt=full", "env.max_context_tokens=8192", "cold_start.log_every=1")


@pytest.fixture(scope="module")
def context(micro: Micro, tmp_path_factory: pytest.TempPathFactory) -> StageContext:
    config = micro.config(tmp_path_factory.mktemp("sft"), ["cold_start.mask_frames=1"])
    return stage_context(load_policy(micro.policy), config, STAGE)


def test_a_cold_start_on_built_traces_trains(tmp_path: Path) -> None:
    data, traces = write_shapes(tmp_path / "data", videos=1), tmp_path / "traces.json"
    places = [f"run_dir={tmp_path / 'cold'}", f"data.train_root={data}", f"data.traces={traces}"]
    few = "cold_start.stages=[{kind: dialogue, steps: 8, batch_size: 1, lr: 3.0e-3, mask_coef: 0.5}]"
    config = load_config("smoke", [*FULL, *places, few])
    done = build(load_tasks("mevis", data), traces, BuildOptions(config.env))
    assert all(built.record for built in done)
    train(config)
    losses = [row["loss/tokens"] for row in read_lines(tmp_path / "cold" / "stage-0-dialogue" / "metrics.jsonl")]
    assert len(losses) == 8 and np.isfinite(losses).all() and losses[-1] < 0.8 * losses[0]


def test_one_batch_holds_videos_of_several_sizes(micro: Micro, context: StageContext, tmp_path: Path) -> None:
    write_moving_shapes(tmp_path / "large", 1, 5, ShapesConfig(size=96, max_frames=32), processes=1)
    env = micro.config(tmp_path).env
    tasks = [
        next(task for task in tasks if any(task.gold))
        for tasks in (micro.tasks(), load_tasks("mevis", tmp_path / "large"))
    ]
    items = [to_trajectory(write_trace(task, env, np.random.default_rng(0), "brief"), task, env) for task in tasks]
    both = one_batch(context, items)
    assert len({gold.shape for gold in both.gold}) == 2
    torch.manual_seed(0)
    _, metrics = sft_loss(context, [both])
    alone = [sft_loss(context, [one_batch(context, [item])])[1] for item in items]
    counts = [sum(gold.shape == shape for gold in both.gold) for shape in ((64, 64), (96, 96))]
    wanted = np.average([each["loss/masks"] for each in alone], weights=counts)
    assert metrics["loss/masks"] == pytest.approx(wanted, rel=1e-3)


def test_a_zoom_before_the_target_is_known_gets_no_mask(micro: Micro, context: StageContext, tmp_path: Path) -> None:
    """Of a data set without names: what no frame shows yet is not asked for, what is named is."""
    env = replace(micro.config(tmp_path).env, prompt="full")
    task = max(micro.tasks(), key=lambda task: len(visible_frames(task.gold)))
    shown = set(first_frames(task, env))
    there = visible_frames(task.gold)
    hidden = next(t for t in there if t not in shown)
    late = [t for t in there if t > min(shown & set(there))]  # it appears in a gap: the trace zooms to find where
    for seen, is_named in (({hidden}, False), (late, True)):
        gold = tuple(rle if t in seen else None for t, rle in enumerate(task.gold))
        nameless = replace(task, gold=gold, caption="", explore="", evidence=(), expression="a bird")
        item = to_trajectory(write_trace(nameless, env, np.random.default_rng(0)), nameless, env)
        assert len(item.turns) > 1 and (UNDECIDED not in item.turns[0].action.text) is is_named
        rows = [row for row, _, _ in one_batch(context, [item]).targets]
        assert rows == list(range(0 if is_named else 1, len(item.turns)))


def test_sam_learns_from_videos_of_several_sizes(micro: Micro, context: StageContext, tmp_path: Path) -> None:
    write_moving_shapes(tmp_path / "large", 1, 5, ShapesConfig(size=96, max_frames=32), processes=1)
    config = micro.config(tmp_path / "run")
    sources = (SourceConfig(root=str(micro.data)), SourceConfig(root=str(tmp_path / "large")))
    config = replace(config, data=replace(config.data, train=sources))
    policy = copy.deepcopy(context.policy)
    prompts = CaptionPrompts(policy.chat, policy.sam.hidden_dim)
    stage = StageConfig(kind="masks", steps=30, batch_size=4, lr=3e-3)
    learning = stage_context(policy, config, stage, prompts)
    assert len({(each.video.height, each.video.width) for each in learning.dataset.named()}) == 2
    train_masks(learning)
    losses = [row["loss/masks"] for row in read_lines(tmp_path / "run" / "metrics.jsonl")]
    assert np.isfinite(losses).all() and losses[2] < 0.8 * losses[0], "the last one includes tracked frames"
