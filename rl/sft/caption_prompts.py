"""A prompt for SAM 2 from the caption of an object, without a language model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from policy.vlm.chat_tokens import ChatTokens


class CaptionPrompts(nn.Module):
    """Captions to SAM 2 prompts [B, C]: the mean of one learned vector per token."""

    def __init__(self, chat: ChatTokens, width: int):
        super().__init__()
        self.chat = chat
        self.bag = nn.EmbeddingBag(len(chat.tokenizer), width, mode="mean")

    def forward(self, captions: Sequence[str]) -> Tensor:
        ids = [self.chat.encode(f" {caption}") for caption in captions]
        offsets = np.cumsum([0, *[len(row) for row in ids[:-1]]])
        device = self.bag.weight.device
        flat = torch.tensor([token for row in ids for token in row], device=device)
        return self.bag(flat, torch.tensor(offsets, device=device))
