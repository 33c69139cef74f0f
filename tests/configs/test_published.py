"""Every published number of VideoSEG-O3's recipe against the config that a run would load.

The sources are files of the released code (github Dmmm1997/VideoSEG-O3 at d9681d9). What a number is when it reaches
the trainer of the cold start is asked of the trainer's own arguments.
"""

from __future__ import annotations

from functools import cache, reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from configs.load import load_config
from configs.schema import RunConfig
from policy.sam.losses import OVERSAMPLING, UNCERTAIN_PART
from rewards import PROFILES
from rl.learner.advantage import EPSILON
from rl.learner.calibration import GRID
from rl.sft.trainer import training_arguments

STAGE = "cold_start.stages.0"
KEY_OF_PIXELS = 28 * 28  # budgets are published in areas of this size

PROTOCOL = [  # of every stage
    ("env.strip_pixels", 32 * KEY_OF_PIXELS),  # cot_data_refvos_v3.py:78-85
    ("env.zoom_pixels", 32 * KEY_OF_PIXELS),
    ("policy.sam.variant", "sam2_hiera_l"),
    ("policy.sam.inject_every_frame", True),  # sa2va_eval_ref_vos_cot_v2.py:121
    ("policy.compute_dtype", "bfloat16"),
    ("env.frame_rounding", "down"),  # linspace to int, dataset.py:668-678
    ("env.bounds", "clamp"),  # modeling_sa2va_qwen_cotv3_keyframe_withvis.py:515
    ("eval.malformed", "decode"),  # :515-542
]

OPTIMISER = [  # videoseg_o3_2b_sft.py, and the same in *_coldstart.py
    ("policy.lora_rank", 128),
    ("policy.lora_alpha", 256),
    ("policy.lora_dropout", 0.05),
    ("policy.lora_modules_to_save", ("lm_head", "embed_tokens")),
    (f"{STAGE}.sam_parts", ("sam_mask_decoder",)),
    (f"{STAGE}.freeze_sam", False),
    ("cold_start.betas", (0.9, 0.999)),
    ("cold_start.weight_decay", 0.05),
    (f"{STAGE}.lr", 4e-5),
    (f"{STAGE}.lr_schedule", "cosine"),
    (f"{STAGE}.mask_coef", 1.0),
    (f"{STAGE}.bce_coef", 2.0),
    (f"{STAGE}.dice_coef", 0.5),
    (f"{STAGE}.mask_points", 12544),
]

SFT = [
    (f"{STAGE}.epochs", 1),
    (f"{STAGE}.batch_size", 16 * 1 * 8),  # GPUs, batch of each, accumulated
    ("env.max_context_tokens", 8192),  # max_length
    ("data.train.0.weight", 4),  # ReVOS
    ("data.train.1.weight", 4),  # MeViS
    ("data.train.2.weight", 4),  # Ref-YTVOS
    ("data.train.3.weight", 2),  # Ref-SAV
    ("data.train.4.weight", 4),  # Long-RVOS
]

COLD_START = [  # *_coldstart.py, cot_data_refvos_v3.py
    (f"{STAGE}.batch_size", 16 * 1 * 4),
    ("env.strip_frames", 20),
    ("env.detail_frames", 5),
    ("env.zoom_frames", 10),  # :95
    ("env.detail_pixels", 128 * KEY_OF_PIXELS),  # :78-85
    ("env.key_pixels", 512 * KEY_OF_PIXELS),
    ("env.max_turns", 3),
]

GRPO = [  # train_rl.sh, dataset.py, trainer_videorl_cot.py
    ("data.train.0.dataset", "mevis"),
    ("data.train.1.dataset", "revos"),
    ("grpo.group_size", 4),
    ("grpo.tasks_per_step", 16),  # groups: 8 GPUs x 2 accumulated, or 16 x 1
    ("grpo.steps", 1000),
    ("grpo.lr", 3e-6),
    ("grpo.warmup_steps", 0),
    ("grpo.lr_decays", True),
    ("grpo.weight_decay", 0.0),
    ("grpo.max_grad_norm", 1.0),
    ("grpo.kl_coef", 0.04),
    ("grpo.kl_form", "k3"),
    ("grpo.loss", "grpo"),
    ("grpo.updates", 1),
    ("grpo.scale_by_std", True),
    ("grpo.mask_coef", 0.2),
    ("grpo.calibration", "loglik"),
    ("grpo.calibration_coef", 1.0),
    ("grpo.calibration_threshold", 0.5),
    ("grpo.masks", "released"),
    ("grpo.mask_frames", 5),
    ("grpo.freeze_sam", False),
    ("policy.lora_rank", 0),
    ("policy.freeze_vision", True),
    ("policy.recompute_activations", True),
    ("env.max_turns", 3),
    ("env.max_action_tokens", 512),
    ("env.max_context_tokens", 8192 + 3 * 512),
    ("env.strip_frames", 10),  # dataset.py:588-594
    ("env.detail_frames", 5),
    ("env.zoom_frames", 5),
    ("env.detail_pixels", 128 * KEY_OF_PIXELS),
    ("env.key_pixels", 256 * KEY_OF_PIXELS),
    ("rewards", PROFILES["videoseg_o3"]),
    *((f"rewards.{name}", 1.0) for name in PROFILES["videoseg_o3"]),
]

EVALUATION = [  # modeling_sa2va_qwen_cotv3_keyframe_withvis.py, sa2va_eval_ref_vos_cot_v2.py
    ("eval.temperature", 0.0),
    ("eval.num_tasks", 0),
    ("env.max_turns", 3),
    ("env.max_action_tokens", 1024),
    ("env.strip_frames", 20),
    ("env.detail_frames", 8),
    ("env.zoom_frames", 5),
    ("env.detail_pixels", 256 * KEY_OF_PIXELS),
    ("env.key_pixels", 512 * KEY_OF_PIXELS),
]

BY_STAGE = {
    "sft": [*PROTOCOL, *OPTIMISER, *SFT],
    "cold_start": [*PROTOCOL, *OPTIMISER, *COLD_START],
    "grpo": [*PROTOCOL, *GRPO],
    "grpo_nodes": [*PROTOCOL, *GRPO],
    "eval": [*PROTOCOL, *EVALUATION],
    "eval_nodes": [*PROTOCOL, *EVALUATION],
}

PUBLISHED: list[tuple[str, str, Any]] = [
    *((f"{size}_{stage}", *row) for size in ("2b", "4b") for stage, rows in BY_STAGE.items() for row in rows),
    ("2b_cold_start", f"{STAGE}.epochs", 2),  # one epoch of data that is repeated twice
    ("4b_cold_start", f"{STAGE}.epochs", 1),
]


@cache
def loaded(name: str) -> RunConfig:
    return load_config(f"videoseg_o3/{name}")


def value_of(name: str, key: str) -> Any:
    def part(value: Any, word: str) -> Any:
        if isinstance(value, dict):
            return value[word]
        return value[int(word)] if isinstance(value, tuple) else getattr(value, word)

    return reduce(part, key.split("."), loaded(name))


@pytest.mark.parametrize(("name", "key", "value"), PUBLISHED)
def test_a_published_number_is_what_a_run_loads(name: str, key: str, value: Any):
    assert value_of(name, key) == value


def test_published_numbers_that_are_no_knobs():
    assert (OVERSAMPLING, UNCERTAIN_PART) == (3.0, 0.75)  # importance sampling of points, videoseg_o3_2b_sft.py
    assert GRID == 32  # trainer:401-477
    assert EPSILON == 1e-4
    assert len(PROFILES["videoseg_o3"]) == 7


@pytest.mark.parametrize("name", ["2b_sft", "2b_cold_start", "4b_sft", "4b_cold_start"])
def test_the_trainer_of_the_cold_start_gets_the_published_optimiser(name: str, tmp_path: Path):
    config = load_config(f"videoseg_o3/{name}", [f"{STAGE}.steps=1000"])
    arguments = training_arguments(config.cold_start.stages[0], config.cold_start, tmp_path, seed=0)
    assert (arguments.adam_beta1, arguments.adam_beta2, arguments.weight_decay) == (0.9, 0.999, 0.05)
    assert (arguments.learning_rate, arguments.lr_scheduler_type, arguments.warmup_steps) == (4e-5, "cosine", 50)
    assert (arguments.max_grad_norm, arguments.gradient_accumulation_steps) == (1.0, 1)
    assert arguments.per_device_train_batch_size == config.cold_start.stages[0].batch_size


@pytest.mark.parametrize("size", ["2b", "4b"])
def test_each_stage_starts_from_the_policy_of_the_one_before(size: str):
    stages = [load_config(f"videoseg_o3/{size}_{stage}") for stage in ("sft", "cold_start", "grpo")]
    assert stages[0].policy.path == f"models/Qwen3-VL-{size.upper()}-Instruct" and stages[0].policy.sam.checkpoint
    for before, after in pairwise(stages):
        assert after.policy.path == f"{before.run_dir}/policy" and not after.policy.sam.checkpoint


@pytest.mark.parametrize("size", ["2b", "4b"])
def test_several_nodes_change_where_it_runs_and_nothing_else(size: str):
    grpo, nodes = load_config(f"videoseg_o3/{size}_grpo"), load_config(f"videoseg_o3/{size}_grpo_nodes")
    for config, gpus in ((grpo, 8), (nodes, 16)):
        assert config.grpo.workers + config.grpo.learner_ranks == gpus, "each has one of its own"
    assert load_config(f"videoseg_o3/{size}_grpo", [f"grpo.workers={nodes.grpo.workers}"]) == nodes
    assert load_config(f"videoseg_o3/{size}_eval", ["eval.workers=16"]) == load_config(f"videoseg_o3/{size}_eval_nodes")
