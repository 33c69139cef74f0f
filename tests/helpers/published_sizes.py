"""The published sizes of Qwen3-VL: the fields that determine names and shapes of weights."""

from __future__ import annotations

from transformers import Qwen3VLConfig

# From the published configs of Qwen3-VL-2B and 4B.
TEXT = {
    "2B": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "4B": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
}
VISION = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16}
VOCABULARY = 151674  # the length of VideoSEG-O3's tokenizer


def full_size(size: str, is_tied: bool = False) -> Qwen3VLConfig:
    """Return the config of Qwen3-VL-`size`, with a head of its own (as in VideoSEG-O3) or a tied one (as in Qwen)."""
    text = TEXT[size] | {"vocab_size": VOCABULARY, "num_key_value_heads": 8, "head_dim": 128}
    vision = VISION | {"out_hidden_size": TEXT[size]["hidden_size"], "deepstack_visual_indexes": [5, 11, 17]}
    text["tie_word_embeddings"] = is_tied
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=is_tied)
