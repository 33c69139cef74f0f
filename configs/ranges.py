"""Ranges of config values. Outside of them a setting has no effect, divides by zero or never ends. No I/O."""

from __future__ import annotations

import operator
from collections.abc import Callable
from operator import attrgetter

from configs.schema import EnvConfig, GrpoConfig, PolicyConfig, RunConfig, StageConfig

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "0 to": lambda value, bound: 0 <= value <= bound,
}

OF_FRAMES = ("masks", "vision")  # stages that sample frames without end, of which there are no epochs
LR_SCHEDULES = ("plateau", "cosine")
COMPUTE_DTYPES = ("float32", "bfloat16")
CHOICES = {  # key -> its values
    "env.frame_rounding": ("nearest", "down"),
    "env.bounds": ("refuse", "clamp"),
    "eval.malformed": ("empty", "decode"),
}
FAILED_RULES = ("exclude", "empty")

# key -> (comparison, bound); `*` stands for every element of a list.
RANGES: dict[str, tuple[str, float]] = {
    "seed": (">=", 0),
    "data.train.*.weight": (">", 0),
    "env.strip_frames": (">=", 1),
    "env.detail_frames": (">=", 0),
    "env.zoom_frames": (">=", 1),
    "env.size_factor": (">=", 1),
    "env.max_turns": (">=", 1),
    "env.max_action_tokens": (">=", 1),
    "env.max_seconds": (">", 0),
    "env.max_turn_seconds": (">", 0),
    "policy.vocab_size": (">", 256),  # byte-level: 256 bytes come first
    "policy.layers": (">=", 1),
    "policy.vision_layers": (">=", 1),
    "policy.init_std": (">", 0),
    "policy.lora_rank": (">=", 0),
    "policy.lora_dropout": (">=", 0),
    "policy.sam.image_size": (">=", 32),
    "policy.sam.memory_layers": (">=", 1),
    "sampler.memory_gb": (">", 0),
    "sampler.gpu_memory_fraction": ("0 to", 1),
    "sampler.max_sequences": (">=", 1),
    "sampler.stall_seconds": (">", 0),
    "sampler.load_seconds": (">", 0),
    "sampler.transfer_seconds": (">", 0),
    "cold_start.stages.*.steps": (">=", 0),
    "cold_start.stages.*.epochs": (">=", 0),
    "cold_start.stages.*.batch_size": (">=", 1),
    "cold_start.stages.*.text_only_traces": (">=", 0),
    "cold_start.stages.*.lr": (">", 0),
    "cold_start.stages.*.mask_coef": (">=", 0),
    "cold_start.stages.*.bce_coef": (">=", 0),
    "cold_start.stages.*.dice_coef": (">=", 0),
    "cold_start.stages.*.mask_points": (">=", 0),
    "cold_start.stages.*.align_coef": (">=", 0),
    "cold_start.stages.*.decision_weight": (">", 0),
    "cold_start.zoom_share": ("0 to", 1),
    "cold_start.mask_frames": (">=", 1),
    "cold_start.weight_decay": (">=", 0),
    "cold_start.max_batch_tokens": (">=", 0),
    "cold_start.max_failed_share": ("0 to", 1),
    "cold_start.max_skipped_updates": (">=", 0),
    "cold_start.log_every": (">=", 1),
    "cold_start.save_every": (">=", 1),
    "grpo.steps": (">=", 0),
    "grpo.tasks_per_step": (">=", 1),
    "grpo.group_size": (">=", 2),  # the advantage of a single trajectory is always zero
    "grpo.max_oversampling": (">=", 1),
    "grpo.rollout_ahead": ("0 to", 1),
    "grpo.lr": (">=", 0),
    "grpo.warmup_steps": (">=", 0),
    "grpo.weight_decay": (">=", 0),
    "grpo.max_grad_norm": (">", 0),
    "grpo.updates": (">=", 1),
    "grpo.clip_low": (">=", 0),
    "grpo.clip_high": (">=", 0),
    "grpo.least_entropy": (">=", 0),
    "grpo.kl_coef": (">=", 0),
    "grpo.truncate_weight": (">=", 0),
    "grpo.calibration_coef": (">=", 0),
    "grpo.calibration_clip": (">=", 0),
    "grpo.mask_coef": (">=", 0),
    "grpo.mask_least_iou": ("0 to", 1),
    "grpo.mask_frames": (">=", 1),
    "grpo.max_batch_tokens": (">=", 1),
    "grpo.learner_ranks": (">=", 1),
    "grpo.workers": (">=", 1),
    "grpo.max_attempts": (">=", 1),
    "grpo.min_group": (">=", 2),
    "grpo.node_cache_gb": (">=", 0),
    "grpo.max_rollout_seconds": (">", 0),
    "grpo.max_failed_share": ("0 to", 1),
    "grpo.max_skipped_updates": (">=", 0),
    "grpo.save_every": (">=", 1),
    "grpo.eval_every": (">=", 0),
    "eval.num_tasks": (">=", 0),
    "eval.temperature": (">=", 0),
    "eval.num_bootstrap": (">=", 1),
    "eval.workers": (">=", 0),
    "eval.max_failed_share": ("0 to", 1),
}


def problems(config: RunConfig) -> list[str]:
    """Return a sentence for every value that is out of range."""
    found = []
    for key, (sign, bound) in RANGES.items():
        for path, value in _values(config, key.split("."), ""):
            if not _COMPARE[sign](value, bound):
                found.append(f"{path}: expected {sign} {bound}, got {value}")
    for key, choices in CHOICES.items():
        value = attrgetter(key)(config)
        if value not in choices:
            found.append(f"{key}: expected one of {', '.join(choices)}, got {value!r}")
    for i, stage in enumerate(config.cold_start.stages):
        found += [f"cold_start.stages.{i}.{problem}" for problem in _stage_problems(stage)]
    if len(config.cold_start.betas) != 2 or not all(0 <= beta < 1 for beta in config.cold_start.betas):
        found.append(f"cold_start.betas: expected two numbers from 0 to below 1, got {config.cold_start.betas}")
    found += [f"data.train.{i}.root: expected a folder" for i, each in enumerate(config.data.train) if not each.root]
    if config.data.train and config.data.traces:
        found.append("data.traces: expected nothing beside data.train; set data.train.<i>.traces")
    found += _env_problems(config.env)
    found += _loss_problems(config.grpo)
    found += _training_problems(config.policy)
    if config.eval.failed not in FAILED_RULES:
        found.append(f"eval.failed: expected one of {', '.join(FAILED_RULES)}, got {config.eval.failed!r}")
    if not config.policy.path:
        found += _small_policy_problems(config.policy, config.env)
    if not any(config.rewards.values()):
        found.append("rewards: expected at least one weight that is not 0")
    return found


def _values(value: object, keys: list[str], path: str) -> list[tuple[str, float]]:
    """Return (dotted path, value) of every number that `keys` leads to."""
    if not keys:
        assert isinstance(value, int | float)
        return [(path, value)]
    if keys[0] == "*":
        assert isinstance(value, tuple)
        return [found for i, part in enumerate(value) for found in _values(part, keys[1:], f"{path}.{i}")]
    return _values(getattr(value, keys[0]), keys[1:], f"{path}.{keys[0]}".lstrip("."))


def _stage_problems(stage: StageConfig) -> list[str]:
    """Without the name of the list in front."""
    found = []
    if stage.lr_schedule not in LR_SCHEDULES:
        found.append(f"lr_schedule: expected one of {', '.join(LR_SCHEDULES)}, got {stage.lr_schedule!r}")
    if stage.epochs and stage.kind in OF_FRAMES:
        found.append(f"epochs: expected 0 in a stage of {stage.kind}, which samples frames without end; set steps")
    if stage.freeze_sam and stage.sam_parts:
        found.append("sam_parts: expected nothing beside freeze_sam, which keeps all of SAM 2 fixed")
    return found


def _training_problems(policy: PolicyConfig) -> list[str]:
    found = []
    if policy.compute_dtype not in COMPUTE_DTYPES:
        dtypes = ", ".join(COMPUTE_DTYPES)
        found.append(f"policy.compute_dtype: expected one of {dtypes}, got {policy.compute_dtype!r}")
    if policy.lora_dropout >= 1:
        found.append(f"policy.lora_dropout: expected less than 1, got {policy.lora_dropout}")
    if not policy.lora_rank and (policy.lora_dropout or policy.lora_modules_to_save):
        found.append("policy.lora_rank: expected above 0 where lora_dropout or lora_modules_to_save is set")
    return found


def _env_problems(env: EnvConfig) -> list[str]:
    found = []
    if len(set(env.tools)) < len(env.tools):
        found.append(f"env.tools: expected each tool once, got {', '.join(env.tools)}")
    for name in ("strip_pixels", "detail_pixels", "zoom_pixels", "key_pixels"):
        if getattr(env, name) < env.size_factor**2:
            found.append(f"env.{name}: expected at least size_factor squared ({env.size_factor**2}), one vision token")
    if env.max_context_tokens <= env.max_action_tokens:
        found.append(f"env.max_context_tokens: expected more than max_action_tokens ({env.max_action_tokens})")
    return found


def _loss_problems(grpo: GrpoConfig) -> list[str]:
    found = []
    if grpo.loss == "cispo" and grpo.clip_high < 1:
        found.append(f"grpo.clip_high: expected >= 1, the cap of the ratio in loss cispo, got {grpo.clip_high}")
    if grpo.calibration_clip > 0 and grpo.updates == 1:
        found.append("grpo.calibration_clip: expected grpo.updates above 1; at the first update all ratios are 1")
    if grpo.min_group > grpo.group_size:
        found.append(f"grpo.min_group: expected at most grpo.group_size ({grpo.group_size}), got {grpo.min_group}")
    if grpo.rollout_ahead and not grpo.truncate_weight:
        found.append("grpo.rollout_ahead: expected grpo.truncate_weight above 0, which corrects for older weights")
    if grpo.rollout_ahead and grpo.max_oversampling > 1:
        found.append("grpo.rollout_ahead: expected grpo.max_oversampling 1: the learner is too busy to score groups")
    return found


def _small_policy_problems(policy: PolicyConfig, env: EnvConfig) -> list[str]:
    """Return what does not fit together in the sizes of the small model; a checkpoint has sizes of its own."""
    found = []
    if policy.heads < 1 or policy.hidden % policy.heads:
        found.append(f"policy.heads: expected a number that divides policy.hidden ({policy.hidden})")
    if min(policy.patch_size, policy.merge_size) < 1 or env.size_factor % (policy.merge_size * policy.patch_size):
        found.append(f"env.size_factor: expected a multiple of policy.patch_size x merge_size, got {env.size_factor}")
    if len(policy.sam.stages) != 4 or min(policy.sam.stages) < 1:
        found.append(f"policy.sam.stages: expected four numbers of blocks, got {policy.sam.stages}")
    return found
