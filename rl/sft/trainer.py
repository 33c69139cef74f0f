"""TRL's SFTTrainer with our collator and loss: tokens of the assistant, masks at every [SEG], caption alignment."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import Tensor
from transformers import TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from configs.load import ConfigError
from configs.schema import ColdStartConfig, StageConfig
from env.errors import CheckpointError
from env.files import remove_folder, replace_folder
from env.json_text import parse_json
from policy.sam.model import SegSam2
from rl.runtime.skipped_updates import SkippedUpdates, finite, gradient_cause, gradient_norm
from rl.sft.collator import Sequences, SftBatch, SftCollator
from rl.sft.context import StageContext
from rl.sft.loss import StepTotals, sft_loss
from rl.sft.unreadable import UnreadableSamples

WEIGHTS = "model.safetensors"  # of a checkpoint inside a stage


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint inside a stage's folder, if there is one. CheckpointError where it is damaged."""
    newest = next(reversed(checkpoints(folder)), None)
    if newest is not None:
        with _loading(newest):
            parse_json((newest / "trainer_state.json").read_bytes())
    return newest


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints inside a stage's folder, oldest first. Each is whole, by `replace_folder`."""
    found = folder.glob("checkpoint-*/trainer_state.json")  # written last by older versions
    return sorted((path.parent for path in found), key=steps_done)


def steps_done(checkpoint: Path) -> int:
    """Return after how many steps of its stage a checkpoint was saved."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


class ColdStartTrainer(SFTTrainer):
    """SFTTrainer whose model is a whole `SegPolicy` and whose batches are `SftBatch`es.

    A step whose loss or gradient is not finite is skipped; a target mask whose frame cannot be read is left out.
    """

    def __init__(self, context: StageContext, sequences: Sequences, unreadable: UnreadableSamples):
        self.context = context
        self.unreadable = unreadable
        most = context.config.cold_start.max_skipped_updates
        self.skipped = SkippedUpdates(most, "cold_start.max_skipped_updates")
        policy, config = context.policy, context.config
        choose_sam_parts(policy.sam, context.stage)
        super().__init__(
            model=policy,  # pyright: ignore[reportArgumentType]  (it uses a module with a config, no more)
            args=training_arguments(context.stage, config.cold_start, context.folder, config.seed),
            data_collator=SftCollator(context, sequences),
            train_dataset=Dataset.from_dict({"index": list(range(sequences.num_rows))}),
            processing_class=policy.chat.tokenizer,
            callbacks=[_JournalCallback(self)],
        )
        self._sums: dict[str, list[float]] = {}

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Return the loss of a step. With `max_batch_tokens` its gradient is accumulated over micro-batches."""
        model.train()
        batches = [self._readable(batch) for batch in inputs["batches"]]
        totals = StepTotals.of(batches, self.context.prompts)
        is_split = self.context.config.cold_start.max_batch_tokens > 0
        sums: dict[str, float] = {}
        loss = torch.zeros((), device=self.context.policy.device)
        for part in [[batch] for batch in batches] if is_split else [batches]:
            part_loss, metrics = sft_loss(self.context, part, totals)
            self.accelerator.backward(part_loss)
            loss += part_loss.detach()
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value
        causes = self._causes(sums, batches)
        self.skipped.record(causes)
        if causes:
            model.zero_grad(set_to_none=True)  # the optimizer leaves weights without a gradient as they are
            return torch.zeros_like(loss)
        for name, value in sums.items():
            self._sums.setdefault(name, []).append(value)
        return loss

    def _readable(self, batch: SftBatch) -> SftBatch:
        """Return the batch without the target masks whose frames cannot be read."""
        if self.context.stage.mask_coef == 0:
            return batch  # no frame is decoded for SAM 2
        frames = self.context.frames
        found = [self.unreadable.read(partial(frames.full, video, at)) is not None for _, video, at in batch.targets]
        targets = [target for target, is_read in zip(batch.targets, found, strict=True) if is_read]
        return replace(
            batch, targets=targets, gold=[mask for mask, is_read in zip(batch.gold, found, strict=True) if is_read]
        )

    def _causes(self, sums: dict[str, float], batches: Sequence[SftBatch]) -> list[str]:
        """Return which loss of which videos, or which gradient, is not finite; nothing where all are."""
        videos = ", ".join(dict.fromkeys(each.video.path for batch in batches for each in batch.batch.sequences))
        causes = [f"{name} of {videos}" for name, value in sums.items() if not math.isfinite(value)]
        if causes:
            return causes
        named = dict(self.context.policy.named_parameters())
        return (
            [] if torch.isfinite(gradient_norm(named.values())) else [f"{gradient_cause(named.items())}, from {videos}"]
        )

    def drain(self) -> dict[str, float]:
        """Return the mean of each metric since the last call, and the counts of what was skipped and left out."""
        means = {name: float(np.mean(values)) for name, values in self._sums.items()}
        self._sums.clear()
        counts = {"optim/skipped": float(self.skipped.total), "data/left_out": float(self.unreadable.count)}
        return means | counts

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a whole checkpoint or none. transformers writes its files one after the other, in their final place."""
        former = checkpoints(self.context.folder)
        with replace_folder(self.context.folder / f"checkpoint-{self.state.global_step}") as draft:
            save_model(self.context.policy, str(draft / WEIGHTS))  # writes a tied head's tensor once
            self._save_optimizer_and_scheduler(str(draft))
            self._save_rng_state(str(draft))
            self.state.save_to_json(str(draft / "trainer_state.json"))
        for old in former:
            if old != self.context.folder / f"checkpoint-{self.state.global_step}":
                remove_folder(old)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with _loading(Path(resume_from_checkpoint)):
            load_model(self.context.policy, str(Path(resume_from_checkpoint) / WEIGHTS))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _loading(Path(checkpoint or "")):
            super()._load_rng_state(checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load both states, and then apply the learning rate and weight decay of the config, which may have changed."""
        if checkpoint is None:
            return
        with _loading(Path(checkpoint)):
            super()._load_optimizer_and_scheduler(checkpoint)
        optimizer: Any = self.optimizer
        schedule: Any = self.lr_scheduler
        for group, scale in zip(optimizer.param_groups, schedule.lr_lambdas, strict=True):
            group["initial_lr"] = self.args.learning_rate
            group["lr"] = self.args.learning_rate * scale(schedule.last_epoch)
        optimizer.param_groups[0]["weight_decay"] = self.args.weight_decay  # the second holds biases and norms
        schedule.base_lrs = [self.args.learning_rate] * len(schedule.base_lrs)


@contextmanager
def _loading(checkpoint: Path) -> Iterator[None]:
    """Raise what a damaged file raises inside the block as a CheckpointError."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"{checkpoint}: cannot be resumed from ({reason}); remove that folder") from error


def choose_sam_parts(sam: SegSam2, stage: StageConfig) -> None:
    """Train only the modules of SAM 2 that the stage names. ConfigError where there is no such module."""
    modules = dict(sam.named_children())
    if unknown := sorted(set(stage.sam_parts) - modules.keys()):
        known = ", ".join(modules)
        raise ConfigError(f"cold_start.stages, sam_parts: expected some of {known}, found {', '.join(unknown)}")
    sam.requires_grad_(not stage.freeze_sam and not stage.sam_parts)
    for name in stage.sam_parts:
        modules[name].requires_grad_(True)


def training_arguments(stage: StageConfig, config: ColdStartConfig, folder: Path, seed: int) -> SFTConfig:
    """Return the trainer's settings for a stage.

    Args:
        stage: Steps, batch size, learning rate and its schedule.
        config: Settings that all stages share: AdamW's weight decay and betas, and how often to log and save.
        folder: Folder for checkpoints inside the stage.
        seed: Seed of the order of rows.
    """
    arguments = SFTConfig(
        output_dir=str(folder),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.batch_size + stage.text_only_traces,
        learning_rate=stage.lr,
        lr_scheduler_type="cosine" if stage.lr_schedule == "cosine" else "warmup_stable_decay",
        lr_scheduler_kwargs=None if stage.lr_schedule == "cosine" else _late_decay(stage.steps),
        warmup_steps=max(1, stage.steps // 20),
        weight_decay=config.weight_decay,
        adam_beta1=config.betas[0],
        adam_beta2=config.betas[1],
        max_grad_norm=1.0,
        logging_steps=config.log_every,
        logging_strategy="steps",
        save_steps=config.save_every,
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
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # otherwise transformers wraps the policy and feeds every visible GPU a batch of its own
    return arguments


def _late_decay(steps: int) -> dict[str, Any]:
    """Return a linear decay over the last 35 % of the steps: skills appear after hundreds of steps at full rate."""
    return {"num_decay_steps": max(1, round(0.35 * steps)), "decay_type": "linear"}


class _JournalCallback(TrainerCallback):
    def __init__(self, trainer: ColdStartTrainer):
        self.trainer = trainer

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:  # not in the record of the whole training at its end
            metrics = self.trainer.drain()
            extra = {f"optim/{name}": float(logs[name]) for name in ("learning_rate", "grad_norm") if name in logs}
            self.trainer.context.journal.log(state.global_step, metrics | finite(extra))
