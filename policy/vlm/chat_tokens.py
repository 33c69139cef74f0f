"""Turn observations and actions into token ids; no other module knows the chat markers.

    system: <|im_start|>system\\n...<|im_end|>\\n      (first turn, where there is a system text)
    turn:   <|im_start|>user\\n...<|im_end|>\\n<|im_start|>assistant\\n  ACTION <|im_end|>

The ids of an action are appended as they were sampled and never re-tokenised. A sequence has two forms: samplers take
one image pad per frame, the learner one per merged patch.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from env.types import FrameRef, Observation
from policy.vlm.tokenizer import END, IMAGE_PAD, SEG, SPECIAL, VISION_END, VISION_START


class ChatTokens:
    """The ids of observations and actions under one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self.seg_id = self._id(SEG)
        self.end_id = self._id(END)
        self.image_pad_id = self._id(IMAGE_PAD)
        self.pad_id = self._id("<|endoftext|>")
        self._frame_ids = (self._id(VISION_START), self.image_pad_id, self._id(VISION_END))
        # With these a policy could write frames or turns that the environment never gave.
        self.banned_ids = tuple(self._id(text) for text in SPECIAL if text not in (SEG, END))

    def _id(self, token: str) -> int:
        token_id = self.tokenizer.convert_tokens_to_ids(token)
        if not isinstance(token_id, int) or self.tokenizer.convert_ids_to_tokens(token_id) != token:
            raise ValueError(f"tokenizer has no token {token}; add it to the checkpoint's tokenizer first")
        return token_id

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without adding special tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def observation_ids(self, observation: Observation, first: bool) -> list[int]:
        """Return the ids before the action that responds to `observation`, with one image pad per frame."""
        ids: list[int] = []
        if observation.system:
            ids += self.encode(f"<|im_start|>system\n{observation.system}{END}\n")
        ids += self.encode("<|im_start|>user\n" if first else "\n<|im_start|>user\n")
        for part in observation.parts:
            ids += self._frame_ids if isinstance(part, FrameRef) else self.encode(part)
        return ids + self.encode(f"{END}\n<|im_start|>assistant\n")

    def action_ids(self, text: str) -> list[int]:
        """Return the ids of a recorded action with the end token. Sampled actions keep the ids that were sampled."""
        return [*self.encode(text), self.end_id]

    def decode_action(self, token_ids: Sequence[int]) -> str:
        """Return the text of a sampled action without its end token."""
        ids = list(token_ids)
        if ids and ids[-1] == self.end_id:
            ids.pop()
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def expand_image_pads(ids: Sequence[int], counts: Sequence[int], image_pad_id: int) -> list[int]:
    """Repeat the n-th image pad `counts[n]` times.

    Example: `expand_image_pads([7, PAD, 8, PAD], [2, 3], PAD)` is `[7, PAD, PAD, 8, PAD, PAD, PAD]`.

    Args:
        ids: Token ids with one image pad per frame.
        counts: Image tokens of each frame, in order.
        image_pad_id: Id of the image pad.

    Raises:
        ValueError: The number of pads is not `len(counts)`.
    """
    pads = sum(token == image_pad_id for token in ids)
    if pads != len(counts):
        raise ValueError(f"{pads} image pads for {len(counts)} frames")
    remaining = iter(counts)
    return [copy for token in ids for copy in ([token] * next(remaining) if token == image_pad_id else [token])]
