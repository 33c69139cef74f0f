"""A cold start on what `cot_data.build` makes: it trains, also on videos of several sizes and without names."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.load import load_config
from configs.schema import StageConfig
from cot_data.build import BuildOptions, build
from cot_data.datasets import load_tasks
from cot_data.moving_shapes.generate import ShapesConfig, write_moving_shapes
from cot_data.traces.claims import UNDECIDED
from cot_data.traces.dialogue import to_trajectory
from cot_data.traces.visibility import first_frames, visible_frames
from cot_data.traces.write import write_trace
from env.frames import FrameCache
from env.types import Trajectory
from policy.videoseg.checkpoint import load_policy
from policy.videoseg.model import SegPolicy
from rl.runtime.journal import Journal
from rl.sft.collator import LessonCollator, SftBatch
from rl.sft.loss import lesson_loss
from rl.sft.mask_stage import CaptionPrompts, NamedMasks, train_masks
from rl.sft_coldstart import train
from tests.helpers.rl_parts import MICRO, Micro, read_lines, write_shapes

STAGE = StageConfig(batch_size=2, mask_coef=0.5)
FULL = (*MICRO, "env.prompt=full", "env.max_context_tokens=8192", "cold_start.log_every=1")


@pytest.fixture(scope="module")
def policy(micro: Micro) -> SegPolicy:
    return load_policy(micro.policy)


def lesson_of(policy: SegPolicy, items: list[Trajectory]) -> SftBatch:
    make = items.__getitem__
    collator = LessonCollator(policy, make, make, FrameCache(), 1, replace(STAGE, batch_size=len(items)), seed=0)
    return collator([{"index": at} for at in range(len(items))])["lessons"][0]


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


def test_one_batch_holds_videos_of_several_sizes(micro: Micro, policy: SegPolicy, tmp_path: Path) -> None:
    write_moving_shapes(tmp_path / "large", 1, 5, ShapesConfig(size=96, max_frames=32), processes=1)
    env = micro.config(tmp_path).env
    tasks = [
        next(task for task in tasks if any(task.gold))
        for tasks in (micro.tasks(), load_tasks("mevis", tmp_path / "large"))
    ]
    items = [to_trajectory(write_trace(task, env, np.random.default_rng(0), "brief"), task, env) for task in tasks]
    both = lesson_of(policy, items)
    assert len({gold.shape for gold in both.gold}) == 2
    torch.manual_seed(0)
    _, metrics = lesson_loss(policy, None, [both], STAGE, FrameCache())
    alone = [lesson_loss(policy, None, [lesson_of(policy, [item])], STAGE, FrameCache())[1] for item in items]
    counts = [sum(gold.shape == shape for gold in both.gold) for shape in ((64, 64), (96, 96))]
    wanted = np.average([each["loss/masks"] for each in alone], weights=counts)
    assert metrics["loss/masks"] == pytest.approx(wanted, rel=1e-3)


def test_a_look_that_does_not_know_its_target_yet_gets_no_mask(micro: Micro, policy: SegPolicy, tmp_path: Path) -> None:
    """Of a data set without names: what no frame shows yet is not asked for, what is named is."""
    env = replace(micro.config(tmp_path).env, prompt="full")
    task = max(micro.tasks(), key=lambda task: len(visible_frames(task.gold)))
    shown = set(first_frames(task, env))
    there = visible_frames(task.gold)
    hidden = next(t for t in there if t not in shown)
    late = [t for t in there if t > min(shown & set(there))]  # it comes into view in a gap: a look for where
    for seen, is_named in (({hidden}, False), (late, True)):
        gold = tuple(rle if t in seen else None for t, rle in enumerate(task.gold))
        nameless = replace(task, gold=gold, caption="", explore="", evidence=(), expression="a bird")
        item = to_trajectory(write_trace(nameless, env, np.random.default_rng(0)), nameless, env)
        assert len(item.turns) > 1 and (UNDECIDED not in item.turns[0].action.text) is is_named
        rows = [row for row, _, _ in lesson_of(policy, [item]).targets]
        assert rows == list(range(0 if is_named else 1, len(item.turns)))


def test_sam_learns_from_videos_of_several_sizes(micro: Micro, policy: SegPolicy, tmp_path: Path) -> None:
    write_moving_shapes(tmp_path / "large", 1, 5, ShapesConfig(size=96, max_frames=32), processes=1)
    tasks = [task for task in (*micro.tasks(), *load_tasks("mevis", tmp_path / "large")) if any(task.gold)]
    videos = [NamedMasks(task.video, ((task.expression, task.gold),)) for task in tasks]
    assert len({(each.video.height, each.video.width) for each in videos}) == 2
    learner = copy.deepcopy(policy)
    prompts = CaptionPrompts(learner.chat, learner.sam.hidden_dim)
    stage = StageConfig(kind="masks", steps=30, batch_size=4, lr=3e-3)
    journal = Journal(tmp_path)
    train_masks(learner, prompts, videos, FrameCache(), stage, journal, seed=0)
    journal.close()
    losses = [row["loss/masks"] for row in read_lines(tmp_path / "metrics.jsonl")]
    assert np.isfinite(losses).all() and losses[2] < 0.8 * losses[0], "the last also count tracked frames"
