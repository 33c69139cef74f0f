"""TRL's SFTTrainer with our collator and loss: tokens of the assistant, masks at every [SEG], pull towards captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import load_model, save_model
from torch import Tensor
from transformers import TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from configs.schema import ColdStartConfig, StageConfig
from cot_data.brief import UNCLEAR
from cot_data.claims import UNTOLD
from env.rle import mask_or_empty
from env.types import Answer, Select, Task, Trajectory
from policy.batch import ALIKE, Batch, Frames, TokenSequence, collate, pack, to_sequence
from policy.model import PolicyOutput, SegPolicy, mask_losses
from rl.caption_prompts import CaptionPrompts
from rl.journal import Journal
from rl.token_weights import TokenWeights


@dataclass(frozen=True)
class Lesson:
    """One collated batch: sequences, weights of their tokens, and the mask wanted at each [SEG]."""

    batch: Batch
    token_weights_BL: Tensor
    targets: list[tuple[int, Any, int]]  # (row of prompts, video, frame index)
    gold: list[np.ndarray]  # bool [H, W] per target
    captions: dict[int, str]  # row of prompts -> caption


class LessonCollator:
    """Row indices to `Lesson`s: the first `batch_size` rows as they are, the others (readings) with nothing to see.

    The mask frames of a [SEG] are drawn from a generator seeded by the rows.
    """

    def __init__(
        self,
        policy: SegPolicy,
        make: Callable[[int], Trajectory],
        make_reading: Callable[[int], Trajectory],
        frames: Frames,
        num_mask_frames: int,
        stage: StageConfig,
        seed: int,
    ):
        self.policy = policy
        self.make = make
        self.make_reading = make_reading
        self.frames = frames
        self.num_mask_frames = num_mask_frames
        self.batch_size = stage.batch_size
        self.weights = TokenWeights(policy.chat, stage.decision_weight)
        self.seed = seed

    def __call__(self, rows: list[dict[str, int]]) -> dict[str, list[Lesson]]:
        indices = [row["index"] for row in rows]
        rng = np.random.default_rng([self.seed, *indices])
        seen = [self.make(index) for index in indices[: self.batch_size]]
        read = [self.make_reading(index) for index in indices[self.batch_size :]]
        return {"lessons": [*self.lessons(seen, rng), *self.lessons(read, rng)]}

    def lessons(self, trajectories: Sequence[Trajectory], rng: np.random.Generator) -> list[Lesson]:
        """`trajectories` in batches of like length: in one alone a quarter would be padding."""
        if not trajectories:
            return []
        sequences = [to_sequence(trajectory, self.policy.chat, self.policy.layout) for trajectory in trajectories]
        lengths = [len(sequence) for sequence in sequences]
        pieces = pack(lengths, max_tokens=len(lengths) * max(lengths), least_share=ALIKE)
        return [self.lesson([trajectories[at] for at in p], [sequences[at] for at in p], rng) for p in pieces]

    def lesson(
        self, trajectories: list[Trajectory], sequences: list[TokenSequence], rng: np.random.Generator
    ) -> Lesson:
        """One batch of all of them."""
        chat, layout = self.policy.chat, self.policy.layout
        batch = collate(sequences, chat, layout, self.frames, self.policy.device)
        weights_BL = torch.zeros(batch.input_ids_BL.shape, device=self.policy.device)
        targets, gold, captions = [], [], {}
        prompt_row = 0
        for row, (trajectory, sequence) in enumerate(zip(trajectories, sequences, strict=True)):
            weights = self.weights(trajectory, sequence)
            weights_BL[row, : len(sequence)] = torch.tensor(weights, device=self.policy.device)
            task = trajectory.task
            for turn in (trajectory.turns[number] for number in sequence.seg_turns):
                decision = turn.decision
                if isinstance(decision, Select) and not _is_named(task, turn.action.text):
                    prompt_row += 1  # the target is still unnamed: a mask wanted here would teach to guess
                    continue
                if isinstance(decision, Select | Answer) and task.gold and sequence.frames:
                    for frame_idx in self._mask_frames(task, decision.key_frame, rng):
                        targets.append((prompt_row, task.video, frame_idx))
                        gold.append(mask_or_empty(task.gold[frame_idx], task.video.height, task.video.width))
                if task.caption and any(task.gold):
                    captions[prompt_row] = task.caption
                prompt_row += 1
        return Lesson(batch, weights_BL, targets, gold, captions)

    def _mask_frames(self, task: Task, key_frame: int, rng: np.random.Generator) -> list[int]:
        others = rng.choice(task.video.num_frames, self.num_mask_frames - 1)
        return [key_frame, *(int(at) for at in others)]


def _is_named(task: Task, look: str) -> bool:
    """Whether a look says who the target is: at a query that is a name, not where exploring is to tell.

    Where the data set has no names, a look says so if it does not know yet.
    """
    return not task.explore and (task.caption in look if task.caption else UNTOLD not in look and UNCLEAR not in look)


def lesson_loss(
    policy: SegPolicy, prompts: CaptionPrompts | None, lessons: Sequence[Lesson], stage: StageConfig, frames: Frames
) -> tuple[Tensor, dict[str, float]]:
    """Weighted token loss (mean over token weights) + mask loss (mean over targets) + alignment (mean over [SEG])."""
    outputs = [policy(lesson.batch) for lesson in lessons]
    pairs = list(zip(lessons, outputs, strict=True))
    losses = torch.stack([-(out.logprobs_BL * lesson.token_weights_BL).sum() for lesson, out in pairs])
    token_loss = losses.sum() / sum(lesson.token_weights_BL.sum() for lesson in lessons)
    metrics = {"loss/tokens": token_loss.item()}
    loss = token_loss
    masked = [(lesson, out) for lesson, out in pairs if lesson.targets]
    if masked and stage.mask_coef > 0:
        mask_loss = torch.cat([_mask_loss(policy, lesson, out, stage, frames) for lesson, out in masked]).mean()
        metrics["loss/masks"] = mask_loss.item()
        loss = loss + stage.mask_coef * mask_loss
    named = [(out.prompts_MC[row], caption) for lesson, out in pairs for row, caption in lesson.captions.items()]
    if prompts is not None and named and stage.align_coef > 0:
        with torch.no_grad():
            wanted = prompts([caption for _, caption in named])
        found = torch.stack([prompt for prompt, _ in named])
        align_loss = (found - wanted).square().mean() / wanted.square().mean()
        metrics["loss/align"] = align_loss.item()
        loss = loss + stage.align_coef * align_loss
    return loss, metrics


def _mask_loss(policy: SegPolicy, lesson: Lesson, output: PolicyOutput, stage: StageConfig, frames: Frames) -> Tensor:
    """One number per target."""
    logits, presence = policy.decode_masks(output.prompts_MC, lesson.targets, frames, not stage.freeze_sam)
    rows_by_size: dict[tuple[int, ...], list[int]] = {}  # videos of one batch may differ in size
    for row, gold_HW in enumerate(lesson.gold):
        rows_by_size.setdefault(gold_HW.shape, []).append(row)
    losses = []
    for rows in rows_by_size.values():
        gold_NHW = torch.from_numpy(np.stack([lesson.gold[row] for row in rows])).to(logits.device)
        bce, dice, presence_loss = mask_losses(logits[rows], presence[rows], gold_NHW)
        losses.append(bce + 0.5 * dice + 0.1 * presence_loss)
    return torch.cat(losses)


class ColdStartTrainer(SFTTrainer):
    """SFTTrainer whose model is a whole `SegPolicy` and whose batches are `Lesson`s."""

    def __init__(
        self,
        policy: SegPolicy,
        prompts: CaptionPrompts | None,
        stage: StageConfig,
        config: ColdStartConfig,
        collator: LessonCollator,
        num_rows: int,
        folder: Path,
        journal: Journal,
        seed: int,
    ):
        self.policy = policy
        self.stage = stage
        self.prompts = prompts
        self.journal = journal
        self.frames = collator.frames
        for parameter in policy.sam.parameters():
            parameter.requires_grad_(not stage.freeze_sam)
        super().__init__(
            model=policy,  # pyright: ignore[reportArgumentType]  (a module with a config is all it uses)
            args=_arguments(stage, config, folder, seed),
            data_collator=collator,
            train_dataset=Dataset.from_dict({"index": list(range(num_rows))}),
            processing_class=policy.chat.tokenizer,
            callbacks=[_JournalCallback(self)],
        )
        self._sums: dict[str, list[float]] = {}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, metrics = lesson_loss(model, self.prompts, inputs["lessons"], self.stage, self.frames)
        for name, value in metrics.items():
            self._sums.setdefault(name, []).append(value)
        return (loss, None) if return_outputs else loss

    def drain(self) -> dict[str, float]:
        """Mean of each metric since the last call."""
        means = {name: float(np.mean(values)) for name, values in self._sums.items()}
        self._sums.clear()
        return means

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.policy, str(folder / "model.safetensors"))  # knows that a tied head shares its tensor

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_model(self.policy, str(Path(resume_from_checkpoint) / "model.safetensors"))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super(SFTTrainer, self)._save_checkpoint(model, trial)  # without TRL's model card


def _arguments(stage: StageConfig, config: ColdStartConfig, folder: Path, seed: int) -> SFTConfig:
    return SFTConfig(
        output_dir=str(folder),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.batch_size + stage.readings,
        learning_rate=stage.lr,
        # Skills come suddenly, after hundreds of steps at full rate: it is lowered late.
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": max(1, round(0.35 * stage.steps)), "decay_type": "linear"},
        warmup_steps=max(1, stage.steps // 20),
        weight_decay=config.weight_decay,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        logging_steps=config.log_every,
        logging_strategy="steps",
        save_steps=config.save_every,
        save_total_limit=1,
        save_strategy="steps",
        seed=seed,
        data_seed=seed,
        report_to=[],
        bf16=False,
        gradient_checkpointing=False,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        max_length=None,
    )


class _JournalCallback(TrainerCallback):
    def __init__(self, trainer: ColdStartTrainer):
        self.trainer = trainer

    def on_log(self, args, state, control, logs=None, **kwargs):
        metrics = self.trainer.drain()
        if metrics and logs:
            extra = {f"optim/{name}": float(logs[name]) for name in ("learning_rate", "grad_norm") if name in logs}
            self.trainer.journal.log(state.global_step, metrics | extra)
