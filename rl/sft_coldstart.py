"""Cold start: supervised stages on VTS-CoT traces, `python -m rl.sft_coldstart --config NAME [--resume]`.

Stages come from `cold_start.stages`: `masks` (SAM 2 from captions), `captions` (what one frame shows), `recall` (what
some frame among many shows), `dialogue` (traces with mask supervision at every [SEG]). All but the first run in TRL's
SFTTrainer. Writes `<run_dir>/policy`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_model, save_model

from configs.load import add_config_arguments, config_from_args, save_config
from configs.schema import RunConfig, StageConfig
from cot_data.captions import caption_trajectories, load_objects, recall_trajectories
from cot_data.datasets import load_tasks
from cot_data.dialogue import match, to_trajectory
from cot_data.records import Record, read_records
from cot_data.write_trace import write_trace
from env.errors import CheckpointError, command
from env.frames import FrameCache
from env.types import Task, Trajectory
from policy.build import POLICIES, build_small, save_policy
from policy.model import SegPolicy
from rl.caption_prompts import CaptionPrompts, train_masks
from rl.cold_start_trainer import ColdStartTrainer, LessonCollator
from rl.journal import Journal

NUM_CAPTIONS = 4000  # sequences drawn for a stage of captions
CAPTIONS = {"captions": caption_trajectories, "recall": recall_trajectories}


def train(config: RunConfig, resume: bool = False) -> Path:
    """Run every stage and return the folder of the trained policy. `resume` goes on where a killed run stopped."""
    run_dir = Path(config.run_dir)
    if resume and not (run_dir / "config.yaml").is_file():
        raise CheckpointError(f"{run_dir}: nothing to resume from (no config.yaml); start without --resume")
    tasks = load_tasks(config.data.dataset, Path(config.data.train_root))
    lessons = _lessons(config, tasks)
    run_dir.mkdir(parents=True, exist_ok=True)
    save_config(config, run_dir / "config.yaml")
    policy = _initial_policy(config, lessons, tasks)
    save_policy(policy, run_dir / "untrained", config.policy)
    torch.manual_seed(config.seed)
    prompts = CaptionPrompts(policy.chat, policy.sam.hidden_dim) if _has_masks_stage(config) else None
    frames = FrameCache(blind=config.env.blind)
    for number, stage in enumerate(config.cold_start.stages):
        folder = run_dir / f"stage-{number}-{stage.kind}"
        if resume and (folder / "policy.safetensors").is_file():
            _load_stage(folder, policy, prompts)
            continue
        journal = Journal(folder)
        if stage.kind == "masks":
            assert prompts is not None
            journal.drop_from(0)
            train_masks(policy, prompts, tasks, frames, stage, journal, config.seed)
        else:
            _train_sequences(config, stage, policy, prompts, lessons, folder, journal, resume)
        journal.close()
        _save_stage(folder, policy, prompts)
    save_policy(policy, run_dir / "policy", config.policy)
    return run_dir / "policy"


def _lessons(config: RunConfig, tasks: list[Task]) -> list[tuple[Record, Task]]:
    """Records with their tasks: those of `data.traces`, or traces written from the gold masks."""
    if config.data.traces:
        return match(read_records(Path(config.data.traces)), tasks)
    style = config.env.prompt
    return [
        (write_trace(task, config.env, np.random.default_rng([config.seed, number]), style), task)
        for number, task in enumerate(tasks)
    ]


def _initial_policy(config: RunConfig, lessons: list[tuple[Record, Task]], tasks: list[Task]) -> SegPolicy:
    if config.policy.path:
        return POLICIES[config.policy.kind](Path(config.policy.path), config.policy)
    texts = [text for record, _ in lessons for text in record.gpt_turns]
    words = [f" {text}" for task in tasks for text in (task.expression, task.caption, f"{task.caption} center")]
    return build_small(config.policy, [*texts, *words], config.seed)


def _has_masks_stage(config: RunConfig) -> bool:
    return any(stage.kind == "masks" for stage in config.cold_start.stages)


def _train_sequences(
    config: RunConfig,
    stage: StageConfig,
    policy: SegPolicy,
    prompts: CaptionPrompts | None,
    lessons: list[tuple[Record, Task]],
    folder: Path,
    journal: Journal,
    resume: bool,
) -> None:
    make, num_rows = _makers(config, stage, lessons)
    frames = FrameCache(blind=config.env.blind)
    mask_frames = config.cold_start.mask_frames
    collator = LessonCollator(policy, make, frames, mask_frames, stage.decision_weight, config.seed)
    trainer = ColdStartTrainer(
        policy, prompts, stage, config.cold_start, collator, num_rows, folder, journal, config.seed
    )
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    trainer.train(resume_from_checkpoint=str(checkpoints[-1]) if resume and checkpoints else None)


def _makers(
    config: RunConfig, stage: StageConfig, lessons: list[tuple[Record, Task]]
) -> tuple[Callable[[int], Trajectory], int]:
    """How to make the n-th trajectory of a stage, and how many there are."""
    if stage.kind in CAPTIONS:
        captions = _captions(config, stage.kind, NUM_CAPTIONS)
        return captions.__getitem__, len(captions)
    traces = len(lessons)
    recall = _captions(config, "recall", round(traces * stage.recall_share))

    def make(row: int) -> Trajectory:
        return to_trajectory(*lessons[row], config.env) if row < traces else recall[row - traces]

    return make, traces + len(recall)


def _captions(config: RunConfig, kind: str, count: int) -> list[Trajectory]:
    """`count` caption sequences of the training videos, which must have labels unless `count` is 0."""
    if count == 0:
        return []
    videos = load_objects(Path(config.data.train_root))
    return CAPTIONS[kind](videos, config.env, np.random.default_rng(config.seed), count)


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
