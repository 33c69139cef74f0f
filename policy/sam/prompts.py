"""Prompts of SAM 2: language tokens, points and masks, and the prompt encoder that takes language tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from torch import Tensor


@dataclass(frozen=True, eq=False)
class MaskPrompt:
    """The prompt of B objects on one frame: language tokens, points, both, or a mask.

    VideoSEG-O3 appends one token to SAM 2's own sparse prompts (`MaskPrompt.language`), VIRST replaces them by ten,
    SteerSeg uses points and masks. SAM 2 takes a mask as the answer on its frame; it therefore stands alone.
    """

    tokens_BNC: Tensor | None = None  # language tokens, as wide as SAM 2's prompts
    mode: Literal["append", "replace"] = "append"  # whether the tokens join SAM 2's sparse prompts or replace them
    points_BP2: Tensor | None = None  # (x, y) as fractions of the frame's width and height
    labels_BP: Tensor | None = None  # 1 object, 0 background, 2 and 3 corners of a box, -1 no point
    mask_BHW: Tensor | None = None  # bool, or 0..1, of any size

    def __post_init__(self) -> None:
        if (self.points_BP2 is None) != (self.labels_BP is None):
            raise ValueError("a prompt needs points_BP2 and labels_BP together; give a label (0 or 1) for each point")
        given = [part for part in (self.tokens_BNC, self.points_BP2, self.labels_BP, self.mask_BHW) if part is not None]
        if not given:
            raise ValueError("an empty prompt; give language tokens, points or a mask")
        if len({len(part) for part in given}) > 1:
            raise ValueError(f"parts of a prompt are for {', '.join(str(len(part)) for part in given)} objects")
        if self.mask_BHW is not None and len(given) > 1:
            raise ValueError("SAM 2 takes a mask as it is; leave the tokens and points of this prompt out")
        if self.points_BP2 is not None and self.tokens_BNC is not None and self.mode == "replace":
            raise ValueError("mode 'replace' would drop the points of this prompt; use 'append' or leave them out")

    @classmethod
    def language(cls, tokens_BC: Tensor) -> MaskPrompt:
        """Return the prompt of VideoSEG-O3: one token [C] per object beside SAM 2's own empty prompt."""
        return cls(tokens_BC[:, None])

    def __len__(self) -> int:
        """Return the number of objects."""
        parts = (self.tokens_BNC, self.points_BP2, self.mask_BHW)
        return next(len(part) for part in parts if part is not None)

    def first(self, count: int) -> MaskPrompt:
        """Return the prompts of the first `count` objects."""
        parts = (self.tokens_BNC, self.points_BP2, self.labels_BP, self.mask_BHW)
        tokens, points, labels, mask = (None if part is None else part[:count] for part in parts)
        return MaskPrompt(tokens, self.mode, points, labels, mask)

    def point_inputs(self, image_size: int, device: torch.device) -> dict[str, Tensor] | None:
        """Return the points as `SAM2Base.track_step` takes them; None where a mask is given.

        Without points this is the one empty point (label -1) that SAM 2 itself uses then.

        Args:
            image_size: Side of SAM 2's square input in pixels.
            device: Where SAM 2 is.

        Returns:
            `point_coords` float32 [B, P, 2] in pixels of SAM 2's input and `point_labels` int32 [B, P].
        """
        if self.mask_BHW is not None:
            return None
        if self.points_BP2 is None or self.labels_BP is None:
            coords_B12 = torch.zeros(len(self), 1, 2, device=device)
            return {"point_coords": coords_B12, "point_labels": -torch.ones_like(coords_B12[..., 0], dtype=torch.int32)}
        coords_BP2 = self.points_BP2.to(device, torch.float32) * image_size
        return {"point_coords": coords_BP2, "point_labels": self.labels_BP.to(device, torch.int32)}

    def mask_inputs(self, image_size: int, device: torch.device) -> Tensor | None:
        """Return the mask as `SAM2Base.track_step` takes it: float32 [B, 1, image_size, image_size] of 0 and 1.

        Another size is resized with antialiasing and cut at 0.5, as `SAM2VideoPredictor.add_new_mask` does.
        """
        if self.mask_BHW is None:
            return None
        mask_B1HW = self.mask_BHW.to(device, torch.float32)[:, None]
        if mask_B1HW.shape[-2:] == (image_size, image_size):
            return mask_B1HW
        size = (image_size, image_size)
        resized = F.interpolate(mask_B1HW, size, mode="bilinear", align_corners=False, antialias=True)
        return (resized >= 0.5).float()


class LanguagePromptEncoder(PromptEncoder):
    """SAM's prompt encoder, to whose sparse prompts language tokens are appended, or which they replace."""

    _language: MaskPrompt | None = None

    @contextmanager
    def prompted(self, prompt: MaskPrompt | None) -> Iterator[None]:
        """Use the language tokens of `prompt`, if it has any, in every call until the block ends."""
        self._language = prompt
        try:
            yield
        finally:
            self._language = None

    def forward(self, points, boxes, masks):
        """Return sparse [B, P, C] and dense [B, C, h, w] prompts; for the arguments see `PromptEncoder`."""
        sparse_BPC, dense_BCHW = super().forward(points, boxes, masks)
        if self._language is None or self._language.tokens_BNC is None:
            return sparse_BPC, dense_BCHW
        if self._language.mode == "replace":
            return self._language.tokens_BNC, dense_BCHW
        return torch.cat([sparse_BPC, self._language.tokens_BNC], dim=1), dense_BCHW
