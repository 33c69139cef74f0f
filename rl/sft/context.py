"""The one argument of every stage of the cold start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from configs.schema import RunConfig, StageConfig
from policy.videoseg.model import SegPolicy
from policy.vlm.batch import FrameSource
from rl.runtime.journal import Journal
from rl.sft.caption_prompts import CaptionPrompts
from rl.sft.data import SftDataset


@dataclass(frozen=True)
class StageContext:
    """All that one stage of a cold start works with."""

    policy: SegPolicy  # trained in place
    prompts: CaptionPrompts | None  # trained in place by `masks`; None in a cold start without that stage
    dataset: SftDataset
    config: RunConfig  # of the whole run: seed, env, cold_start
    stage: StageConfig  # of this stage: steps, batch size, learning rate, loss weights
    frames: FrameSource  # what the policy is shown, and what SAM 2 sees
    journal: Journal  # metrics of this stage
    folder: Path  # `<run_dir>/stage-<number>-<kind>`, for checkpoints inside the stage
