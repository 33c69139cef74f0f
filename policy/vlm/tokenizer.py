"""The tokenizer of the small default policy: byte-level BPE with Qwen's special tokens, trained on our own text.

Tags and JSON scaffolding are added tokens and every frame index is one token, because a small model pays for each.
A pretrained policy brings its own tokenizer; only `[SEG]` is added to it.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SEG = "[SEG]"
END = "<|im_end|>"
IMAGE_PAD = "<|image_pad|>"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
SPECIAL = ("<|endoftext|>", "<|im_start|>", END, VISION_START, VISION_END, IMAGE_PAD, "<|video_pad|>", SEG)
TAGS = ("think", "select", "answer", "VTG", "RefSeg")
# Without the space behind the colon: a number then is the same token in the JSON as in the text, and can be copied.
SCAFFOLD = ('{"start":', ', "end":', ', "keyframe":', "}")

# ChatML, as Qwen3-VL writes it; kept in the folder so that other tools can talk to the checkpoint too.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(
    corpus: Iterable[str], vocab_size: int, phrases: Iterable[str] = (), max_index: int = 160
) -> PreTrainedTokenizerFast:
    """Train on `corpus`; every integer below `max_index` becomes one token (with and without a space before it).

    So do `phrases` of several words, with a space before them: to name what was asked for is then to copy a token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    numbers = [str(i) for i in range(max_index)]
    # Repetition makes the merges of indices the most frequent ones, so that they survive any vocabulary limit.
    numbered = ["".join(f" {i}" for i in numbers)] * 200 + [f"({i}" for i in numbers] * 200
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*numbered, *corpus], trainer)
    tags = [text for tag in TAGS for text in (f"<{tag}>", f"</{tag}>")]
    added = (*tags, *SCAFFOLD, *(f" {phrase}" for phrase in phrases))
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in added])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token="<|endoftext|>",
        additional_special_tokens=[token for token in SPECIAL if token not in (END, "<|endoftext|>")],
        chat_template=CHAT_TEMPLATE,
    )
