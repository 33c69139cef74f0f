"""Build, save and load multi-turn policies.

A checkpoint folder holds `vlm/` (a plain Hugging Face folder, which vLLM opens too), `seg.safetensors` (projection and
SAM 2), `policy.json` (the model family, and how SAM 2 is built) and, where it is known, `prompt.yaml` (the words that
the policy was trained with).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    Qwen2VLImageProcessor,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from configs.load import ConfigError, fill_section
from configs.policy_schema import PolicyConfig, SamConfig
from configs.prompt_file import FILE_NAME, Prompt, prompt_text, read_prompt
from env.errors import CheckpointError
from env.files import write_json, write_text
from policy.checkpoint_io import read_json, read_safetensors, require_finite, require_fit, write_safetensors
from policy.folder_kinds import require_plain
from policy.sam.build import build_sam, require_sizes
from policy.videoseg.model import SegPolicy
from policy.vlm.load import COMPUTE_DTYPES, compose_phrases, compute_device, load_vlm, record_tying, small_config
from policy.vlm.tokenizer import CHAT_TEMPLATE, SEG, train_tokenizer

FAMILY = "videoseg"  # in `policy.json`; a key of `rl.families.FAMILIES`
OUTPUT_SCALE = 0.1  # of the initial output projections of all blocks: blocks with small outputs learn sooner (LOG.md)


def build_small(config: PolicyConfig, corpus: Iterable[str], seed: int, phrases: Iterable[str] = ()) -> SegPolicy:
    """Build the small default: the real classes with small sizes, and a tokenizer trained on `corpus`.

    Args:
        config: Sizes. Nothing is frozen: `policy.freeze_*` concerns loaded policies.
        corpus: Texts to train the tokenizer on.
        seed: Of the initial weights.
        phrases: Each ("dark red") becomes one token.

    Returns:
        The policy in evaluation mode, on the compute device.
    """
    phrases = list(phrases)
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(corpus, config.vocab_size, phrases)
    vlm = Qwen3VLForConditionalGeneration._from_config(small_config(config, tokenizer), dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in vlm.model.language_model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.mul_(OUTPUT_SCALE)
        compose_phrases(vlm.model.language_model.embed_tokens.weight, tokenizer, phrases)
        nn.init.normal_(vlm.model.visual.pos_embed.weight)  # so that position is as large as the whitened patches
    return _finish(
        SegPolicy(vlm, tokenizer, build_sam(config.sam)), replace(config, freeze_vision=False, freeze_embeddings=False)
    )


def load_policy(folder: Path, config: PolicyConfig | None = None) -> SegPolicy:
    """Load a checkpoint of this program, or a plain Qwen3-VL folder, to which [SEG] and `config.sam` are added.

    Raises CheckpointError, which names the folder and the first entry that does not fit.
    """
    if (folder / "policy.json").is_file():
        sam = _saved_sam(folder / "policy.json", config)  # first, because it fails fast
        policy = SegPolicy(*load_vlm(folder / "vlm"), build_sam(sam))
        _load_seg(policy, folder / "seg.safetensors")
        policy.prompt = _saved_prompt(folder)
        return _finish(policy, config)
    require_plain(folder)
    return _finish(_join(folder, (config or PolicyConfig()).sam), config)


def _join(folder: Path, sam_config: SamConfig) -> SegPolicy:
    """Join a plain Qwen3-VL, whose tokenizer gets [SEG], and the SAM 2 that `sam_config` names."""
    if sam_config.variant != "small" and not sam_config.checkpoint:
        raise CheckpointError(
            f"{folder}: a plain Qwen3-VL, without SAM 2; "
            f"set policy.sam.checkpoint to the published .pt file of {sam_config.variant} (policy.sam.variant)"
        )
    sam = build_sam(sam_config)  # first, because it fails fast
    vlm, tokenizer = load_vlm(folder)
    if SEG not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [SEG]}, replace_extra_special_tokens=False)
        if len(tokenizer) > vlm.lm_head.out_features:
            vlm.resize_token_embeddings(len(tokenizer))  # seldom: published tables have unused rows
    return SegPolicy(vlm, tokenizer, sam)


def _saved_prompt(folder: Path) -> Prompt | None:
    try:
        return read_prompt(folder / FILE_NAME) if (folder / FILE_NAME).is_file() else None
    except ConfigError as error:
        raise CheckpointError(f"{error}; correct it, or copy it again") from error


def _saved_sam(path: Path, config: PolicyConfig | None) -> SamConfig:
    """Return how the SAM 2 beside `path` is built; `config`, where it is given, says how it tracks."""
    saved = read_json(path).get("sam")
    if not isinstance(saved, dict):
        raise CheckpointError(f"{path}: expected 'sam', how SAM 2 is built; copy the file again")
    sam = saved_sam(SamConfig(), saved, f"{path}: sam")
    every_frame = config.sam.inject_every_frame if config else sam.inject_every_frame
    return replace(sam, checkpoint="", inject_every_frame=every_frame)


def saved_sam(sam: SamConfig, saved: Mapping[str, Any], where: str) -> SamConfig:
    """Return `sam` with the entries that a checkpoint stores. CheckpointError, which names `where`, if one is unfit.

    A checkpoint from before `masks` and `presence` lacks them: their defaults are what all were trained with then.
    """
    try:
        found = fill_section(sam, saved, where)
        require_sizes(found)
    except ConfigError as error:
        message = str(error) if str(error).startswith(where) else f"{where}: {error}"
        raise CheckpointError(f"{message}; was the checkpoint saved by a later version, or damaged?") from error
    return found


def _finish(policy: SegPolicy, config: PolicyConfig | None) -> SegPolicy:
    if config and config.freeze_vision:
        policy.vlm.model.visual.requires_grad_(False)
    if config and config.freeze_embeddings:
        policy.vlm.model.language_model.embed_tokens.requires_grad_(False)
    if config and config.lora_rank:
        policy.add_lora(config.lora_rank, config.lora_alpha, config.lora_dropout, config.lora_modules_to_save)
    policy.eval()  # no dropout unless a trainer switches it on
    if config:
        policy.compute_dtype = COMPUTE_DTYPES[config.compute_dtype]
        if config.recompute_activations:
            policy.recompute_activations()
    return policy.to(compute_device())


def _load_seg(policy: SegPolicy, path: Path) -> None:
    loaded, expected = read_safetensors(path), _seg_state(policy)
    variant = policy.sam.built_from.variant
    advice = f"Was it saved with the policy.json beside it (SAM 2 {variant})? Copy the folder whole"
    require_fit(expected, loaded, path, advice)
    for name, tensor in expected.items():
        tensor.copy_(loaded[name])


def _seg_state(policy: SegPolicy) -> dict[str, torch.Tensor]:
    sam = {f"grounding_encoder.sam2_model.{name}": tensor for name, tensor in policy.sam.state_dict().items()}
    head = {f"text_hidden_fcs.{name}": tensor for name, tensor in policy.text_hidden_fcs.state_dict().items()}
    return sam | head


def save_policy(policy: SegPolicy, folder: Path) -> None:
    """Write a checkpoint folder; adapters are merged into the weights that they adapt.

    `policy.json` describes the policy itself, since a run may load another one than its config describes.

    Raises:
        CheckpointError: A weight is not finite. Nothing is written then.
    """
    vlm_weights, seg_weights = policy.export_weights(), _seg_state(policy)
    require_finite(vlm_weights | seg_weights, folder)
    vlm_dir = folder / "vlm"
    vlm_dir.mkdir(parents=True, exist_ok=True)
    record_tying(policy.vlm)
    policy.vlm.config.architectures = ["Qwen3VLForConditionalGeneration"]
    policy.vlm.config.save_pretrained(vlm_dir)
    if policy.vlm.generation_config is not None:
        policy.vlm.generation_config.save_pretrained(vlm_dir)
    write_safetensors(vlm_weights, vlm_dir / "model.safetensors")
    processor_of(policy).save_pretrained(vlm_dir)
    write_safetensors(seg_weights, folder / "seg.safetensors")
    if policy.prompt is not None:
        write_text(folder / FILE_NAME, prompt_text(policy.prompt))
    write_json(folder / "policy.json", {"family": FAMILY, "sam": asdict(policy.sam.built_from)}, indent=2)


def processor_of(policy: SegPolicy) -> Qwen3VLProcessor:
    """Return tokenizer and image processor as other tools expect them in a checkpoint folder."""
    layout = policy.layout
    # Areas in pixels. The environment has resized every frame; with these bounds the processor does not do so again.
    numbers = {
        "patch_size": layout.patch,
        "merge_size": layout.merge,
        "temporal_patch_size": layout.temporal,
        "image_mean": list(layout.mean),
        "image_std": list(layout.std),
        "size": {"shortest_edge": (layout.patch * layout.merge) ** 2, "longest_edge": 1024 * 1024},
    }
    return Qwen3VLProcessor(
        Qwen2VLImageProcessor(**numbers),
        policy.chat.tokenizer,
        Qwen3VLVideoProcessor(**numbers),
        chat_template=policy.chat.tokenizer.chat_template or CHAT_TEMPLATE,
    )
