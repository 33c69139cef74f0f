"""TRL's SFTTrainer with our collator and loss: tokens of the assistant, masks at every [SEG], pull towards captions."""

from __future__ import annotations

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

from configs.load import ConfigError
from configs.schema import ColdStartConfig, StageConfig
from policy.sam.model import SegSam2
from policy.videoseg.model import SegPolicy
from rl.runtime.journal import Journal
from rl.sft.collator import LessonCollator
from rl.sft.loss import StepTotals, lesson_loss
from rl.sft.mask_stage import CaptionPrompts


class ColdStartTrainer(SFTTrainer):
    """SFTTrainer whose model is a whole `SegPolicy` and whose batches are `SftBatch`s."""

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
        self.is_split = config.max_batch_tokens > 0
        choose_sam_parts(policy.sam, stage)
        super().__init__(
            model=policy,  # pyright: ignore[reportArgumentType]  (a module with a config is all it uses)
            args=training_arguments(stage, config, folder, seed),
            data_collator=collator,
            train_dataset=Dataset.from_dict({"index": list(range(num_rows))}),
            processing_class=policy.chat.tokenizer,
            callbacks=[_JournalCallback(self)],
        )
        self._sums: dict[str, list[float]] = {}

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """The loss of a step, whose gradient is added up over micro-batches where `max_batch_tokens` asks for it."""
        model.train()
        lessons = inputs["lessons"]
        totals = StepTotals.of(lessons, self.prompts)
        sums: dict[str, float] = {}
        loss = torch.zeros((), device=self.policy.device)
        for part in [[lesson] for lesson in lessons] if self.is_split else [lessons]:
            share, metrics = lesson_loss(self.policy, self.prompts, part, self.stage, self.frames, totals)
            self.accelerator.backward(share)
            loss += share.detach()
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value
        for name, value in sums.items():
            self._sums.setdefault(name, []).append(value)
        return loss

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


def choose_sam_parts(sam: SegSam2, stage: StageConfig) -> None:
    """Let those modules of SAM 2 learn that the stage names. ConfigError where there is no such module."""
    modules = dict(sam.named_children())
    if unknown := sorted(set(stage.sam_parts) - modules.keys()):
        wanted = f"expected some of {', '.join(modules)}, found {', '.join(unknown)}"
        raise ConfigError(f"cold_start.stages, sam_parts: {wanted}")
    sam.requires_grad_(not stage.freeze_sam and not stage.sam_parts)
    for name in stage.sam_parts:
        modules[name].requires_grad_(True)


def training_arguments(stage: StageConfig, config: ColdStartConfig, folder: Path, seed: int) -> SFTConfig:
    """What the trainer is told of a stage."""
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
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # or transformers would wrap the policy to feed all GPUs, each with a batch of its own
    return arguments


def _late_decay(steps: int) -> dict[str, Any]:
    """Skills come suddenly, after hundreds of steps at full rate: it is lowered late."""
    return {"num_decay_steps": max(1, round(0.35 * steps)), "decay_type": "linear"}


class _JournalCallback(TrainerCallback):
    def __init__(self, trainer: ColdStartTrainer):
        self.trainer = trainer

    def on_log(self, args, state, control, logs=None, **kwargs):
        metrics = self.trainer.drain()
        if metrics and logs:
            extra = {f"optim/{name}": float(logs[name]) for name in ("learning_rate", "grad_norm") if name in logs}
            self.trainer.journal.log(state.global_step, metrics | extra)
