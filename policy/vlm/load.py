"""Load the language model, its tokenizer and its chat tokens from a Hugging Face folder, or configure a small one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from configs.schema import PolicyConfig
from env.errors import CheckpointError
from policy.checkpoint_io import read_json, require_names
from policy.vlm.chat_tokens import ChatTokens
from policy.vlm.patches import PatchLayout

HEAD_DIM = 32  # the smallest that vLLM's CPU attention takes


COMPUTE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def compose_phrases(embedding_VD: torch.Tensor, tokenizer: PreTrainedTokenizerBase, phrases: Iterable[str]) -> None:
    """Start each phrase's token halfway between its words, so that "red" and "dark red" have something in common."""
    for phrase in phrases:
        words = [tokenizer.encode(f" {word}", add_special_tokens=False)[0] for word in phrase.split()]
        (token,) = tokenizer.encode(f" {phrase}", add_special_tokens=False)
        embedding_VD[token] = embedding_VD[words].sum(0) / len(words) ** 0.5


def small_config(config: PolicyConfig, tokenizer: PreTrainedTokenizerBase) -> Qwen3VLConfig:
    vocab = tokenizer.get_vocab()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.hidden,
        "intermediate_size": 3 * config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": 8192,
        "initializer_range": config.init_std,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [6, 5, 5],
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "depth": config.vision_layers,
        "hidden_size": config.vision_hidden,
        "intermediate_size": 4 * config.vision_hidden,
        "num_heads": max(1, config.vision_hidden // 32),
        "patch_size": config.patch_size,
        "spatial_merge_size": config.merge_size,
        "temporal_patch_size": 1,
        "out_hidden_size": config.hidden,
        "num_position_embeddings": 256,
        "deepstack_visual_indexes": [0],
        "initializer_range": config.init_std,
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=vocab["<|image_pad|>"],
        video_token_id=vocab["<|video_pad|>"],
        vision_start_token_id=vocab["<|vision_start|>"],
        vision_end_token_id=vocab["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def compute_device() -> torch.device:
    """Where policies live: the GPU that this process may use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_vlm(folder: Path) -> tuple[Qwen3VLForConditionalGeneration, PreTrainedTokenizerBase]:
    tokenizer = load_tokenizer(folder)
    try:
        # Published weights are bfloat16, whose last bit is larger than an update at the rates they are trained with.
        load = Qwen3VLForConditionalGeneration.from_pretrained
        loaded: Any = load(folder, output_loading_info=True, dtype=torch.float32)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: weights or config.json cannot be read ({error}); copy it again") from error
    vlm, info = loaded
    advice = "Is config.json that of these weights, and is the folder whole? Copy it again"
    require_names(info["missing_keys"], info["unexpected_keys"], folder, advice)
    return vlm, tokenizer


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder, all of whose JSON files are read: what was cut off is named here.

    The libraries would name no file, or raise a bare Exception. Code that comes with the folder is not run, nor asked
    about. CheckpointError.
    """
    for path in (folder / "config.json", *sorted(folder.glob("*.json"))):
        read_json(path)
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: no tokenizer can be made of its files ({error}); copy it again") from error


def load_chat(folder: Path) -> tuple[ChatTokens, PatchLayout]:
    """Tokenizer and patch layout of a Hugging Face folder, without its weights (all a rollout worker needs)."""
    return ChatTokens(load_tokenizer(folder)), PatchLayout.of(Qwen3VLConfig.from_pretrained(folder))
