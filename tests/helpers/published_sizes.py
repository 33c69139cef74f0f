"""The sizes in which Qwen3-VL is published, as far as names and shapes of weights go."""

from __future__ import annotations

from transformers import Qwen3VLConfig

# What the published Qwen3-VL-2B and 4B configs say.
TEXT = {
    "2B": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "4B": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
}
VISION = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16}
VOCABULARY = 151674  # of VideoSEG-O3: as long as its tokenizer


def full_size(size: str, is_tied: bool = False) -> Qwen3VLConfig:
    """The configuration of Qwen3-VL-`size`; its head is its own, as VideoSEG-O3 publishes it, or tied, as Qwen does."""
    text = TEXT[size] | {"vocab_size": VOCABULARY, "num_key_value_heads": 8, "head_dim": 128}
    vision = VISION | {"out_hidden_size": TEXT[size]["hidden_size"], "deepstack_visual_indexes": [5, 11, 17]}
    text["tie_word_embeddings"] = is_tied
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=is_tied)
