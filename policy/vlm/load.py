"""Load the language model, its tokenizer and its chat tokens from a Hugging Face folder, or configure a small one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from configs.schema import PolicyConfig
from env.errors import CheckpointError
from policy.checkpoint_io import read_index, read_json, reading, require_finite, require_names, weight_shapes
from policy.folder_kinds import PLAIN_TYPE
from policy.vlm.chat_tokens import ChatTokens
from policy.vlm.patches import PatchLayout

HEAD_DIM = 32  # the smallest that vLLM's CPU attention takes


COMPUTE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def compose_phrases(embedding_VD: torch.Tensor, tokenizer: PreTrainedTokenizerBase, phrases: Iterable[str]) -> None:
    """Set each phrase's embedding to the scaled sum of its words', so that "red" and "dark red" are similar.

    Args:
        embedding_VD: The embedding table, changed in place.
        tokenizer: A tokenizer in which each phrase, with a space before it, is one token.
        phrases: Texts of several words.
    """
    for phrase in phrases:
        words = [tokenizer.encode(f" {word}", add_special_tokens=False)[0] for word in phrase.split()]
        (token,) = tokenizer.encode(f" {phrase}", add_special_tokens=False)
        embedding_VD[token] = embedding_VD[words].sum(0) / len(words) ** 0.5


def small_config(config: PolicyConfig, tokenizer: PreTrainedTokenizerBase) -> Qwen3VLConfig:
    """Return the configuration of the small default model: the sizes of `config`, the vocabulary of `tokenizer`."""
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
    """Return the device of policies: the GPU that this process may use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_vlm(folder: Path) -> tuple[Qwen3VLForConditionalGeneration, PreTrainedTokenizerBase]:
    """Load model (float32) and tokenizer of a Hugging Face folder. Raises CheckpointError where a file does not fit."""
    tokenizer = load_tokenizer(folder)
    _require_config(folder)
    with reading(f"{folder}: weights or config.json"):
        # Published weights are bfloat16, whose rounding steps are larger than an update at usual learning rates.
        load = Qwen3VLForConditionalGeneration.from_pretrained
        # Never a .bin, which is a pickle.
        loaded: Any = load(folder, output_loading_info=True, dtype=torch.float32, use_safetensors=True)
    vlm, info = loaded
    advice = "Is config.json that of these weights, and is the folder whole? Copy it again"
    require_names(info["missing_keys"], info["unexpected_keys"], folder, advice)
    require_finite(vlm.state_dict(), folder)
    record_tying(vlm)
    return vlm, tokenizer


def _require_config(folder: Path) -> None:
    """Raise CheckpointError where config.json is of another model, a quantised one, or one of other sizes.

    The library would load another model's weights as they are, and build layers of any number and size before it finds
    that they do not fit.
    """
    path = folder / "config.json"
    values = read_json(path)
    if values.get("model_type") != PLAIN_TYPE:
        raise CheckpointError(f"{path}: expected model_type {PLAIN_TYPE!r}, found {values.get('model_type')!r}")
    if "quantization_config" in values:
        raise CheckpointError(f"{path}: of quantised weights, which cannot be trained; give those before quantisation")
    with reading(path):
        config: Any = Qwen3VLConfig.from_pretrained(folder)
    depths = {
        "text_config.num_hidden_layers": config.text_config.num_hidden_layers,
        "vision_config.depth": config.vision_config.depth,
    }
    shapes = weight_shapes(folder)
    for key, layers in depths.items():
        if not 0 < layers <= len(shapes):
            raise CheckpointError(f"{path}: {key}: {layers} layers for {len(shapes)} weights; copy it again")
    with reading(path), torch.device("meta"):
        expected = Qwen3VLForConditionalGeneration(config).state_dict()
    for name in sorted(expected.keys() & shapes.keys()):
        if expected[name].shape != shapes[name]:
            raise CheckpointError(
                f"{path}: weight {name} has shape {shapes[name]}, expected {tuple(expected[name].shape)}; is it the "
                "config of these weights? Copy it again"
            )


def head_is_tied(vlm: Qwen3VLForConditionalGeneration) -> bool:
    """Return whether the head is the embedding table. On the meta device, without numbers, the config decides."""
    head = vlm.lm_head.weight
    return vlm.config.tie_word_embeddings if head.is_meta else head is vlm.model.language_model.embed_tokens.weight


def record_tying(vlm: Qwen3VLForConditionalGeneration) -> None:
    """Write into the config of a model whether its head is its embedding table, as its tensors are.

    Merged adapters leave a head of its own in folders whose config says `tie_word_embeddings: true`. The libraries
    then keep both tensors, and leave the config as it is.
    """
    config: Any = vlm.config
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = head_is_tied(vlm)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a Hugging Face folder without running code from the folder.

    All JSON files are read first, so that a broken one is named; the libraries name none, or raise a bare Exception.
    So is the index of the weights, since whatever loads a folder loads its tokenizer first. Raises CheckpointError.
    """
    for path in (folder / "config.json", *sorted(folder.glob("*.json"))):
        read_json(path)
    read_index(folder)
    with reading(f"{folder}: its tokenizer files"):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def load_chat(folder: Path) -> tuple[ChatTokens, PatchLayout]:
    """Load tokenizer and patch layout of a Hugging Face folder without its weights: all that a sampler needs."""
    tokenizer = load_tokenizer(folder)
    with reading(folder):
        return ChatTokens(tokenizer), PatchLayout.of(Qwen3VLConfig.from_pretrained(folder))
