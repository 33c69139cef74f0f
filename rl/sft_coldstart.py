"""Cold start: supervised stages on VTS-CoT traces, `python -m rl.sft_coldstart --config NAME [--resume]`.

Stages come from `cold_start.stages`: `masks` (SAM 2 from captions), `vision` (what each cell of a frame shows),
`captions` (what one frame shows), `dialogue` (traces with mask supervision at every [SEG], and further ones without
frames). The last two run in TRL's SFTTrainer. Writes `<run_dir>/policy`.
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
from cot_data.captions import caption_trajectories
from cot_data.datasets import load_tasks
from cot_data.dialogue import to_trajectory, without_frames
from cot_data.labelled import load_objects
from cot_data.matching import match
from cot_data.mevis import LABELS
from cot_data.records import Record, read_records
from cot_data.sights import PLACES
from cot_data.write_trace import write_trace
from env.errors import CheckpointError, DataError, command
from env.frames import FrameCache
from env.types import RLE, Task, Trajectory, VideoRef
from policy.build import POLICIES, build_small, save_policy
from policy.model import SegPolicy
from rl.caption_prompts import CaptionPrompts, NamedMasks, train_masks
from rl.cold_start_trainer import ColdStartTrainer, LessonCollator
from rl.journal import Journal
from rl.vision_stage import train_vision

ABOUT_PLACES = ("motion", "relation")  # families of queries that a list of names does not answer
MOST_NAMES = 64  # of a data set in which each has a token
CORPUS = 400  # traces that the tokenizer is trained on
NUM_CAPTIONS = 4000  # sequences drawn for a stage of captions


def train(config: RunConfig, resume: bool = False) -> Path:
    """Run every stage and return the folder of the trained policy. `resume` goes on where a killed run stopped."""
    run_dir = Path(config.run_dir)
    if resume and not (run_dir / "config.yaml").is_file():
        raise CheckpointError(f"{run_dir}: nothing to resume from (no config.yaml); start without --resume")
    lessons = Lessons(config)
    run_dir.mkdir(parents=True, exist_ok=True)
    save_config(config, run_dir / "config.yaml")
    policy = _initial_policy(config, lessons)
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
            train_masks(policy, prompts, lessons.named(), frames, stage, journal, config.seed)
        elif stage.kind == "vision":
            journal.drop_from(0)
            train_vision(policy, lessons.videos, frames, config.env, stage, journal, config.seed)
        else:
            _train_sequences(config, stage, policy, prompts, lessons, folder, journal, resume)
        journal.close()
        _save_stage(folder, policy, prompts)
    save_policy(policy, run_dir / "policy", config.policy)
    return run_dir / "policy"


class Lessons:
    """Records with their tasks: those of `data.traces`, else traces written from gold masks when asked for."""

    def __init__(self, config: RunConfig):
        root = Path(config.data.train_root)
        self.config = config
        self.tasks = load_tasks(config.data.dataset, root)
        outlines = self.tasks.outlines
        self.records = read_records(Path(config.data.traces)) if config.data.traces else None
        self._rows = range(len(outlines)) if self.records is None else match(self.records, outlines)
        self.videos = load_objects(root) if (root / LABELS).is_file() else []
        self._objects = {each.video: each.objects for each in self.videos}
        self._readable = [row for row, at in enumerate(self._rows) if outlines[at].family not in ABOUT_PLACES]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> tuple[Record, Task]:
        task, env = self.tasks[self._rows[row]], self.config.env
        if self.records is not None:
            return self.records[row], task
        rng = np.random.default_rng([self.config.seed, row])
        return write_trace(task, env, rng, env.prompt, objects=self._objects.get(task.video, ())), task

    def dialogue(self, row: int) -> Trajectory:
        """A record as it plays in the environment."""
        return to_trajectory(*self[row], self.config.env)

    def reading(self, row: int) -> Trajectory:
        """A record with nothing to see, of a query that what was seen can answer; `row` counts round and round."""
        if not self._readable:
            where = ", ".join(ABOUT_PLACES)
            raise DataError("cold_start.stages, readings", f"expected tasks of other families than {where}, found none")
        return without_frames(self.dialogue(self._readable[row % len(self._readable)]))

    def named(self) -> list[NamedMasks]:
        """What `masks` trains on: every labelled object, where there are none the targets of the tasks."""
        if self.videos:
            return [NamedMasks(each.video, tuple((o.caption, o.masks) for o in each.objects)) for each in self.videos]
        by_video: dict[VideoRef, dict[str, tuple[RLE | None, ...]]] = {}
        for task in self.tasks:
            if any(task.gold):
                by_video.setdefault(task.video, {})[task.caption or task.expression] = task.gold
        return [NamedMasks(video, tuple(objects.items())) for video, objects in by_video.items()]

    def corpus(self) -> list[str]:
        """What the tokenizer of the small default is trained on."""
        trajectories = [self.dialogue(row) for row in range(min(len(self), CORPUS))]
        turns = [turn for trajectory in trajectories for turn in trajectory.turns]
        read = [part for turn in turns for part in turn.observation.parts if isinstance(part, str)]
        words = {
            "user",
            "assistant",
            *(f" {place}" for place in PLACES),
            *(f" {outline.expression}" for outline in self.tasks.outlines),
        }
        return [*(turn.action.text for turn in turns), *read, *sorted(words) * 3]

    def phrases(self) -> list[str]:
        """Names and places of several words, as far as they are few: the small default has a token for each."""
        captions = sorted({each.caption for each in self.tasks.outlines if " " in each.caption})
        return [*(captions if len(captions) <= MOST_NAMES else []), *(place for place in PLACES if " " in place)]


def _initial_policy(config: RunConfig, lessons: Lessons) -> SegPolicy:
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
    lessons: Lessons,
    folder: Path,
    journal: Journal,
    resume: bool,
) -> None:
    make, num_rows = _makers(config, stage, lessons)
    frames = FrameCache(blind=config.env.blind)
    mask_frames = config.cold_start.mask_frames
    collator = LessonCollator(policy, make, lessons.reading, frames, mask_frames, stage, config.seed)
    trainer = ColdStartTrainer(
        policy, prompts, stage, config.cold_start, collator, num_rows, folder, journal, config.seed
    )
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    trainer.train(resume_from_checkpoint=str(checkpoints[-1]) if resume and checkpoints else None)


def _makers(config: RunConfig, stage: StageConfig, lessons: Lessons) -> tuple[Callable[[int], Trajectory], int]:
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
