"""A stage of the cold start on its own: its context on a real data set, and one batch of given trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from configs.schema import RunConfig, StageConfig
from env.frames import FrameCache
from env.types import Trajectory
from policy.videoseg.model import SegPolicy
from policy.vlm.batch import to_sequence
from rl.runtime.journal import Journal
from rl.sft.caption_prompts import CaptionPrompts
from rl.sft.collator import Sequences, SftBatch, SftCollator
from rl.sft.context import StageContext
from rl.sft.data import SftDataset


def stage_context(
    policy: SegPolicy, config: RunConfig, stage: StageConfig, prompts: CaptionPrompts | None = None
) -> StageContext:
    """Build the context of a stage that writes to the run's folder itself.

    Args:
        policy: The policy to train.
        config: Names the data set; its own stages are not used.
        stage: The stage.
        prompts: Caption prompts, if the stage needs them.
    """
    folder = Path(config.run_dir)
    return StageContext(policy, prompts, SftDataset(config), config, stage, FrameCache(), Journal(folder), folder)


def with_mask_frames(context: StageContext, count: int) -> StageContext:
    """Return the context with `cold_start.mask_frames` set to `count`."""
    cold_start = replace(context.config.cold_start, mask_frames=count)
    return replace(context, config=replace(context.config, cold_start=cold_start))


def rows_of(items: Sequence[Trajectory]) -> Sequences:
    """Return these trajectories as the rows of a stage, with or without frames as they are."""
    return Sequences(items.__getitem__, items.__getitem__, len(items))


def one_batch(context: StageContext, items: Sequence[Trajectory]) -> SftBatch:
    """Return all trajectories as one batch, whatever their lengths."""
    collator = SftCollator(context, rows_of(items))
    sequences = [to_sequence(item, context.policy.chat, context.policy.layout) for item in items]
    return collator.batch(items, sequences, np.random.default_rng(0).spawn(len(items)))
