"""Cold start: supervised stages on VTS-CoT traces, `python -m rl.sft_coldstart --config NAME [--resume]`.

Stages come from `cold_start.stages`: `masks` (SAM 2 from captions), `vision` (what each cell of a frame shows),
`captions` (what one frame shows), `dialogue` (traces with mask supervision at every [SEG], and further ones without
frames). The last two run in TRL's SFTTrainer. Writes `<run_dir>/policy`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_model, save_model

from configs.load import add_config_arguments, config_from_args, save_config
from configs.schema import RunConfig, StageConfig
from cot_data.moving_shapes.captions import caption_trajectories
from env.errors import CheckpointError, command
from env.frames import FrameCache
from env.types import Trajectory
from policy.videoseg.checkpoint import POLICIES, build_small, save_policy
from policy.videoseg.model import SegPolicy
from rl.runtime.archive import set_aside
from rl.runtime.journal import Journal
from rl.sft.collator import LessonCollator
from rl.sft.data import SftDataset
from rl.sft.mask_stage import CaptionPrompts, train_masks
from rl.sft.trainer import ColdStartTrainer
from rl.sft.vision_stage import train_vision

WRITTEN = ("config.yaml", "untrained", "stage-*", "policy")
NUM_CAPTIONS = 4000  # sequences drawn for a stage of captions


def train(config: RunConfig, resume: bool = False) -> Path:
    """Run every stage and return the folder of the trained policy. `resume` goes on where a killed run stopped."""
    run_dir = Path(config.run_dir)
    if resume and not (run_dir / "config.yaml").is_file():
        raise CheckpointError(f"{run_dir}: nothing to resume from (no config.yaml); start without --resume")
    lessons = SftDataset(config)
    policy = _initial_policy(config, lessons)
    if not resume:
        set_aside(run_dir, WRITTEN, Path(config.policy.path))
    run_dir.mkdir(parents=True, exist_ok=True)
    save_config(config, run_dir / "config.yaml")
    save_policy(policy, run_dir / "untrained")
    torch.manual_seed(config.seed)
    prompts = CaptionPrompts(policy.chat, policy.sam.hidden_dim).to(policy.device) if _has_masks_stage(config) else None
    frames = FrameCache(blind=config.env.blind)
    for number, stage in enumerate(config.cold_start.stages):
        folder = run_dir / f"stage-{number}-{stage.kind}"
        if resume and (folder / "policy.safetensors").is_file():
            _load_stage(folder, policy, prompts)
            continue
        journal = Journal(folder)
        if stage.kind == "masks":
            assert prompts is not None
            journal.drop_from(0)  # of an attempt that was broken off
            train_masks(policy, prompts, lessons.named(), frames, stage, journal, config.seed)
        elif stage.kind == "vision":
            journal.drop_from(0)  # of an attempt that was broken off
            train_vision(policy, lessons.videos, frames, config.env, stage, journal, config.seed)
        else:
            _train_sequences(config, stage, policy, prompts, lessons, folder, journal, resume)
        journal.close()
        _save_stage(folder, policy, prompts)
    save_policy(policy, run_dir / "policy")
    return run_dir / "policy"


def _initial_policy(config: RunConfig, lessons: SftDataset) -> SegPolicy:
    if config.policy.path:
        return POLICIES[config.policy.kind](Path(config.policy.path), config.policy)
    return build_small(config.policy, lessons.corpus(), config.seed, lessons.phrases())


def _has_masks_stage(config: RunConfig) -> bool:
    return any(stage.kind == "masks" for stage in config.cold_start.stages)


def _train_sequences(
    config: RunConfig,
    stage: StageConfig,
    policy: SegPolicy,
    prompts: CaptionPrompts | None,
    lessons: SftDataset,
    folder: Path,
    journal: Journal,
    resume: bool,
) -> None:
    make, num_rows = _makers(config, stage, lessons)
    frames = FrameCache(blind=config.env.blind)
    shared = config.cold_start
    if stage.epochs:
        stage = replace(stage, steps=math.ceil(stage.epochs * num_rows / (stage.batch_size + stage.text_only_traces)))
    collator = LessonCollator(
        policy, make, lessons.text_only, frames, shared.mask_frames, stage, config.seed, shared.max_batch_tokens
    )
    trainer = ColdStartTrainer(policy, prompts, stage, shared, collator, num_rows, folder, journal, config.seed)
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    trainer.train(resume_from_checkpoint=str(checkpoints[-1]) if resume and checkpoints else None)


def _makers(config: RunConfig, stage: StageConfig, lessons: SftDataset) -> tuple[Callable[[int], Trajectory], int]:
    """How to make the n-th trajectory of a stage, and how many there are."""
    if stage.kind == "captions":
        rng = np.random.default_rng(config.seed)
        captions = caption_trajectories(lessons.videos, config.env, rng, NUM_CAPTIONS)
        return captions.__getitem__, len(captions)
    return lessons.dialogue, len(lessons)


def _save_stage(folder: Path, policy: SegPolicy, prompts: CaptionPrompts | None) -> None:
    if prompts is not None:
        save_model(prompts, str(folder / "prompts.safetensors"))
    save_model(policy, str(folder / "policy.safetensors"))  # last: its presence says that the stage is done


def _load_stage(folder: Path, policy: SegPolicy, prompts: CaptionPrompts | None) -> None:
    load_model(policy, str(folder / "policy.safetensors"))
    if prompts is not None:
        load_model(prompts, str(folder / "prompts.safetensors"))


@command
def main() -> None:
    parser = argparse.ArgumentParser(description="Cold start: supervised stages on VTS-CoT traces.")
    add_config_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="go on where the run in run_dir stopped")
    args = parser.parse_args()
    print(f"policy written to {train(config_from_args(args), args.resume)}")


if __name__ == "__main__":
    main()
