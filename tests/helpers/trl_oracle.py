"""TRL's own GRPO code as an outside reference: a real `GRPOTrainer` with given model outputs and samples."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer


@dataclass(frozen=True)
class Sampled:
    """A batch of whole groups. `lengths_B` counts each row's tokens; `mask_BL` excludes those of the environment."""

    logprobs_BL: Tensor
    old_BL: Tensor
    sampling_BL: Tensor
    ref_BL: Tensor
    mask_BL: Tensor
    lengths_B: list[int]
    rewards_B: Tensor
    entropy_BL: Tensor


class OracleTrainer(GRPOTrainer):
    """TRL's trainer with the log-probs and rewards of `sampled`. Everything computed from them is TRL's code."""

    sampled: Sampled

    def _generate(self, prompts: Any) -> Any:
        sampled = self.sampled
        ids = [[5] * length for length in sampled.lengths_B]
        tool_mask = [row[:n].long().tolist() for row, n in zip(sampled.mask_BL, sampled.lengths_B, strict=True)]
        sampling = [row[:n].tolist() for row, n in zip(sampled.sampling_BL, sampled.lengths_B, strict=True)]
        return [[4]] * len(ids), ids, tool_mask, ["text"] * len(ids), sampling, {}, None, None

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        sampled = self.sampled
        if torch.is_grad_enabled():
            values_BL = sampled.logprobs_BL
        else:
            values_BL = sampled.ref_BL if model is self.ref_model else sampled.old_BL
        return values_BL, sampled.entropy_BL, None

    def _calculate_rewards(self, *args: Any) -> Tensor:
        return self.sampled.rewards_B[:, None]

    def loss(self, sampled: Sampled) -> tuple[Tensor, dict[str, Any], dict[str, float]]:
        """Return the loss of one step, TRL's advantages and importance ratios, and its metrics."""
        self.sampled = sampled
        made = self._generate_and_score_completions([{"prompt": "a"}] * len(sampled.lengths_B))
        value = self._compute_loss(self.model, made)
        return value, made, {name: values[-1] for name, values in self._metrics["train"].items()}


def build_oracle(folder: Path, batch_size: int, group_size: int, max_tokens: int) -> OracleTrainer:
    """Build the trainer around a tiny Qwen2 whose outputs are never used.

    Args:
        folder: Where the trainer may write.
        batch_size: Rows of a batch.
        group_size: Siblings of a group.
        max_tokens: Most tokens of a row.
    """
    words = {word: number for number, word in enumerate(["<pad>", "<eos>", "<unk>", "<bos>", "a", "b"])}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<unk>")), pad_token="<pad>", eos_token="<eos>"
    )
    sizes = Qwen2Config(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    model = Qwen2ForCausalLM(sizes).train()
    args = GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=batch_size,
        num_generations=group_size,
        max_completion_length=max_tokens,
        beta=0.0,  # the reference model is set below; with a beta TRL would load it from the hub
        num_iterations=2,  # so that the old log-probs are kept
        use_bias_correction_kl=False,  # the k3 of the paper, whose weight is 1
        use_cpu=True,
        bf16=False,
        report_to=[],
    )
    trainer = OracleTrainer(
        model,
        reward_funcs=_no_reward,
        args=args,
        train_dataset=Dataset.from_list([{"prompt": "a"}]),
        processing_class=tokenizer,
    )
    trainer.ref_model = copy.deepcopy(model)
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def _no_reward(completions: list[str], **_: Any) -> list[float | None]:
    raise AssertionError("rewards are given, never computed")
