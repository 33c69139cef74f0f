"""Which settings a resumed run may change: free ones, recorded ones and fixed ones, for each command.

FREE      has no effect on the figures, or the command does not read it; it may change without a word
RECORDED  takes effect from here on; the command prints it and adds it to `changes.jsonl`
FIXED     figures from before and after would mean different things: the resume is refused
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from configs.load import config_to_dict
from configs.schema import RunConfig

_HASH = re.compile(r"[0-9a-f]{64}")
FREE, RECORDED, FIXED = "free", "recorded", "fixed"
GRPO, COLD_START, EVALUATION = range(3)  # columns of RULES

_ALL, _NONE = (FIXED, FIXED, FIXED), (FREE, FREE, FREE)
_TRAINING, _POLICY = (FIXED, FIXED, FREE), (FIXED, FIXED, FREE)
_GRPO, _GRPO_RECORDED = (FIXED, FREE, FREE), (RECORDED, FREE, FREE)
_STAGES, _STAGES_RECORDED = (FREE, FIXED, FREE), (FREE, RECORDED, FREE)

# Key -> (GRPO, cold start, evaluation). `*` stands for a position in a list. The tasks that `data` names are compared
# by their content as well (`rl.runtime.data_identity`, `rl.evaluation.identity`), so roots may move.
RULES: dict[str, tuple[str, str, str]] = {
    "run_dir": _NONE,
    "seed": _ALL,
    "data.dataset": _TRAINING,
    "data.train_root": _NONE,
    "data.eval_root": _NONE,
    "data.traces": _NONE,
    "data.train.*.dataset": _TRAINING,
    "data.train.*.root": _NONE,
    "data.train.*.weight": _TRAINING,
    "data.train.*.traces": _NONE,
    "data.train.*.only": _NONE,
    "env.prompt": (FREE, FREE, FIXED),  # a run keeps the words it was started with (`rl.families.as_trained`)
    "env.tools": _ALL,
    "env.strip_frames": _ALL,
    "env.detail_frames": _ALL,
    "env.zoom_frames": _ALL,
    "env.size_factor": _ALL,
    "env.strip_pixels": _ALL,
    "env.detail_pixels": _ALL,
    "env.zoom_pixels": _ALL,
    "env.key_pixels": _ALL,
    "env.max_turns": _ALL,
    "env.max_action_tokens": _ALL,
    "env.max_context_tokens": _ALL,
    "env.frame_rounding": _ALL,
    "env.bounds": _ALL,
    "env.max_seconds": _NONE,
    "env.max_turn_seconds": _NONE,
    "env.blind": _ALL,
    "policy.kind": _POLICY,
    "policy.path": _POLICY,
    "policy.vocab_size": _POLICY,
    "policy.hidden": _POLICY,
    "policy.layers": _POLICY,
    "policy.heads": _POLICY,
    "policy.vision_hidden": _POLICY,
    "policy.vision_layers": _POLICY,
    "policy.patch_size": _POLICY,
    "policy.merge_size": _POLICY,
    "policy.init_std": _POLICY,
    "policy.sam.variant": _POLICY,
    "policy.sam.checkpoint": _POLICY,
    "policy.sam.image_size": _POLICY,
    "policy.sam.hidden": _POLICY,
    "policy.sam.embed": _POLICY,
    "policy.sam.stages": _POLICY,
    "policy.sam.memory_layers": _POLICY,
    "policy.sam.inject_every_frame": _ALL,
    "policy.sam.masks": _POLICY,
    "policy.sam.presence": _POLICY,
    "policy.lora_rank": _POLICY,
    "policy.lora_alpha": _POLICY,
    "policy.lora_dropout": _POLICY,
    "policy.lora_modules_to_save": _POLICY,
    "policy.freeze_vision": _POLICY,
    "policy.freeze_embeddings": _POLICY,
    "policy.compute_dtype": (RECORDED, RECORDED, FIXED),
    "policy.recompute_activations": _NONE,
    "sampler.kind": (RECORDED, FREE, FIXED),
    "sampler.dtype": (RECORDED, FREE, FIXED),
    "sampler.memory_gb": _NONE,
    "sampler.gpu_memory_fraction": _NONE,
    "sampler.gpus_per_worker": _NONE,
    "sampler.max_sequences": _NONE,
    "sampler.stall_seconds": _NONE,
    "sampler.load_seconds": _NONE,
    "sampler.transfer_seconds": _NONE,
    "cold_start.stages.*.kind": _STAGES,
    "cold_start.stages.*.steps": _STAGES,
    "cold_start.stages.*.epochs": _STAGES,
    "cold_start.stages.*.batch_size": _STAGES,
    "cold_start.stages.*.text_only_traces": _STAGES,
    "cold_start.stages.*.lr": _STAGES_RECORDED,
    "cold_start.stages.*.lr_schedule": _STAGES,
    "cold_start.stages.*.mask_coef": _STAGES,
    "cold_start.stages.*.bce_coef": _STAGES,
    "cold_start.stages.*.dice_coef": _STAGES,
    "cold_start.stages.*.mask_points": _STAGES,
    "cold_start.stages.*.align_coef": _STAGES,
    "cold_start.stages.*.decision_weight": _STAGES,
    "cold_start.stages.*.freeze_sam": _STAGES,
    "cold_start.stages.*.sam_parts": _STAGES,
    "cold_start.zoom_share": _STAGES,
    "cold_start.mask_frames": _STAGES,
    "cold_start.weight_decay": _STAGES_RECORDED,
    "cold_start.betas": _STAGES,
    "cold_start.max_batch_tokens": _NONE,
    "cold_start.max_failed_share": _NONE,
    "cold_start.max_skipped_updates": _NONE,
    "cold_start.log_every": _NONE,
    "cold_start.save_every": _NONE,
    "grpo.steps": _GRPO_RECORDED,
    "grpo.tasks_per_step": _GRPO,
    "grpo.group_size": _GRPO,
    "grpo.max_oversampling": _GRPO_RECORDED,
    "grpo.rollout_ahead": _GRPO_RECORDED,
    "grpo.lr": _GRPO_RECORDED,
    "grpo.warmup_steps": _GRPO_RECORDED,
    "grpo.lr_decays": _GRPO_RECORDED,
    "grpo.weight_decay": _GRPO_RECORDED,
    "grpo.max_grad_norm": _GRPO_RECORDED,
    "grpo.updates": _GRPO,
    "grpo.loss": _GRPO,
    "grpo.clip_low": _GRPO_RECORDED,
    "grpo.clip_high": _GRPO_RECORDED,
    "grpo.least_entropy": _GRPO,
    "grpo.kl_coef": _GRPO,
    "grpo.kl_form": _GRPO,
    "grpo.scale_by_std": _GRPO,
    "grpo.truncate_weight": _GRPO,
    "grpo.truncate_level": _GRPO,
    "grpo.calibration": _GRPO,
    "grpo.calibration_coef": _GRPO,
    "grpo.calibration_threshold": _GRPO,
    "grpo.calibration_clip": _GRPO,
    "grpo.calibration_detach": _GRPO,
    "grpo.mask_coef": _GRPO,
    "grpo.mask_least_iou": _GRPO,
    "grpo.freeze_sam": _GRPO,
    "grpo.mask_frames": _GRPO,
    "grpo.masks": _GRPO,
    "grpo.max_batch_tokens": _NONE,
    "grpo.learner_ranks": _NONE,
    "grpo.workers": _NONE,
    "grpo.weight_transport": _NONE,
    "grpo.max_attempts": _NONE,
    "grpo.max_failed_share": _NONE,
    "grpo.max_skipped_updates": _NONE,
    "grpo.min_group": _GRPO_RECORDED,
    "grpo.node_cache_gb": _NONE,
    "grpo.max_rollout_seconds": _NONE,
    "grpo.save_every": _NONE,
    "grpo.eval_every": _GRPO_RECORDED,
    "grpo.shuffle_rewards": _GRPO,
    "rewards.*": _GRPO,
    "eval.num_tasks": _GRPO_RECORDED,
    "eval.temperature": (RECORDED, FREE, FIXED),
    "eval.blind": _NONE,
    "eval.blind_zooms": (FREE, FREE, FIXED),
    "eval.malformed": (RECORDED, FREE, FIXED),
    "eval.failed": _NONE,
    "eval.max_failed_share": _NONE,
    "eval.num_bootstrap": _NONE,
    "eval.workers": _NONE,
}


@dataclass(frozen=True)
class Change:
    """One setting that differs between a run and its resume."""

    key: str
    was: Any  # None: it was not there
    now: Any

    def __str__(self) -> str:
        return f"{self.key} was {_shown(self.was)} and is {_shown(self.now)} now"


def changes(old: RunConfig, new: RunConfig, command: int) -> dict[str, list[Change]]:
    """Return what differs between two configs.

    Args:
        old: Config that the run was started with.
        new: Config that it is resumed with.
        command: Column of `RULES`.

    Returns:
        Kind (FREE, RECORDED or FIXED) -> changes of that kind, in the order of the schema.
    """
    before, after = flat(config_to_dict(old)), flat(config_to_dict(new))
    found: dict[str, list[Change]] = {FREE: [], RECORDED: [], FIXED: []}
    for key in {**before, **after}:
        if before.get(key) != after.get(key):
            found[RULES[pattern(key)][command]].append(Change(key, before.get(key), after.get(key)))
    return found


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted keys. A list of sections counts its elements; other lists are values."""
    return dict(_leaves(values, prefix))


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _leaves(part, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for at, part in enumerate(value):
            yield from _leaves(part, f"{key}.{at}")
    elif value != [] or not _is_list_of_sections(key):
        yield key, value


def _is_list_of_sections(key: str) -> bool:
    return any(name.startswith(f"{key}.*.") for name in RULES)


def pattern(key: str) -> str:
    """Return the key of `RULES` for a dotted key of a config."""
    section, _, rest = key.partition(".")
    if section == "rewards" and rest:
        return "rewards.*"
    return ".".join("*" if part.isdecimal() else part for part in key.split("."))


def _shown(value: Any) -> str:
    """Return a value as messages show it; of a hash only the beginning."""
    if isinstance(value, str) and _HASH.fullmatch(value):
        return f"{value[:12]}.."
    return "absent" if value is None else repr(value)
