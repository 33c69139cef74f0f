"""Train the tokenizer of the small default policy: byte-level BPE with the special tokens of Qwen.

Tags, the fixed parts of the JSON and every frame index are one token each, so that sequences are short. A pretrained
policy has its own tokenizer, to which only `[SEG]` is added.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from env.actions import SEG

END = "<|im_end|>"
IMAGE_PAD = "<|image_pad|>"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
SPECIAL = ("<|endoftext|>", "<|im_start|>", END, VISION_START, VISION_END, IMAGE_PAD, "<|video_pad|>", SEG)
TAGS = ("think", "select", "answer", "VTG", "RefSeg")
# They end before the space: a number is then the same token in the JSON as in text, and the policy can copy it.
SCAFFOLD = ('{"start":', ', "end":', ', "keyframe":', "}")

# ChatML as Qwen3-VL writes it, saved with the checkpoint for other tools.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(
    corpus: Iterable[str], vocab_size: int, phrases: Iterable[str] = (), max_index: int = 160
) -> PreTrainedTokenizerFast:
    """Train a tokenizer.

    Args:
        corpus: Texts to train on.
        vocab_size: Most entries of the vocabulary, without tags, JSON parts and phrases.
        phrases: Texts of several words that become one token each, with a space before them, so that the policy can
            name an object by copying a token.
        max_index: Every integer below it becomes one token, with and without a space before it.

    Returns:
        The tokenizer, with end and padding tokens and a chat template.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    numbers = [str(i) for i in range(max_index)]
    # Repetition makes the merges of indices the most frequent ones, so that they fit into any vocabulary.
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
