"""SAM 2 with language prompts: the `sam2` package's own classes and weights, plus a prompt encoder for language tokens.

`policy.sam.prompts` says what a prompt may hold, `policy.sam.tracking` follows objects through a video.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from configs.policy_schema import SamConfig
from policy.sam.prompts import LanguagePromptEncoder, MaskPrompt

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class FrameFeatures:
    """Image features of N frames: three levels, each [N, C, H, W], finest first, and their position encodings.

    The positions are the same for every frame, and stored once.
    """

    levels: list[Tensor]
    positions: list[Tensor]

    def __len__(self) -> int:
        return len(self.levels[0])

    @classmethod
    def stack(cls, rows: Sequence[FrameFeatures]) -> FrameFeatures:
        """Join the frames of `rows` in order."""
        levels = [torch.cat(parts) for parts in zip(*(row.levels for row in rows), strict=True)]
        return cls(levels, _repeated(rows[0].positions, len(levels[0])))

    def row(self, index: int) -> FrameFeatures:
        """Return the features of one frame, not copied."""
        at = slice(index, index + 1)
        return FrameFeatures([level[at] for level in self.levels], [position[at] for position in self.positions])

    def pick(self, index: Tensor) -> FrameFeatures:
        """Return the frames `index` [M], which may name a frame several times."""
        return FrameFeatures([level[index] for level in self.levels], _repeated(self.positions, len(index)))


def _repeated(positions: Sequence[Tensor], count: int) -> list[Tensor]:
    """Return the position encodings of `count` frames, without copies: at 1024 x 1024 they take 88 MB a frame."""
    return [position[:1].expand(count, -1, -1, -1) for position in positions]


class DecodedMasks(NamedTuple):
    """The masks of N objects on one frame, or on a frame each."""

    logits_NHW: Tensor  # at a quarter of SAM 2's input side
    presence_N: Tensor  # logits; above 0 SAM 2 predicts that the object is present
    iou_N: Tensor  # predicted IoU of each mask, 0..1 in SAM 2.1


class SegSam2(SAM2Base):
    """SAM 2 that takes language prompts and decodes single frames; `policy.sam.tracking` tracks with it."""

    sam_prompt_encoder: LanguagePromptEncoder
    built_from: SamConfig  # the config that `build_sam` was given, without the file of its weights

    def _build_sam_heads(self) -> None:
        super()._build_sam_heads()
        side = self.sam_image_embedding_size
        self.sam_prompt_encoder = LanguagePromptEncoder(
            embed_dim=self.sam_prompt_embed_dim,
            image_embedding_size=(side, side),
            input_image_size=(self.image_size, self.image_size),
            mask_in_chans=16,
        )

    def encode_frames(self, frames: Iterable[np.ndarray], train_backbone: bool = False) -> FrameFeatures:
        """Encode RGB frames (uint8 [H, W, 3] of any size), resized one by one to the square that SAM 2 takes."""
        return self.encode_images(torch.stack([self._to_image(frame) for frame in frames]), train_backbone)

    def encode_images(self, images_N3HW: Tensor, train_backbone: bool = False) -> FrameFeatures:
        """Encode images that already have SAM 2's size and normalisation."""
        with torch.set_grad_enabled(train_backbone and torch.is_grad_enabled()):
            out = self.image_encoder(images_N3HW)
        levels = list(out["backbone_fpn"])
        levels[0] = self.sam_mask_decoder.conv_s0(levels[0])
        levels[1] = self.sam_mask_decoder.conv_s1(levels[1])
        return FrameFeatures(
            levels, [position.expand(len(images_N3HW), -1, -1, -1) for position in out["vision_pos_enc"]]
        )

    def _to_image(self, frame: np.ndarray) -> Tensor:
        pixels = torch.tensor(frame).to(self.device).permute(2, 0, 1).float()[None] / 255
        side = self.image_size
        if pixels.shape[-2:] != (side, side):
            pixels = F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True)
        mean = torch.tensor(MEAN, device=self.device).view(3, 1, 1)
        std = torch.tensor(STD, device=self.device).view(3, 1, 1)
        return (pixels[0] - mean) / std

    def decode(self, features: FrameFeatures, prompt: MaskPrompt, multimask: bool | None = None) -> DecodedMasks:
        """Decode N frames on their own, without memory.

        `no_mem_embed` stands in for the memory, so rewards and mask losses need no propagation. Masks of objects that
        are predicted absent keep their logits here.

        Args:
            features: Features of N frames, one for each object of the prompt.
            prompt: Language tokens or points of N objects.
            multimask: Decode three masks per prompt and return the one of highest predicted IoU (True), or the single
                mask (False). None: as this SAM 2 was trained (`SamConfig.masks`).

        Raises:
            ValueError: The prompt is a mask.
        """
        if multimask is None:
            multimask = self.built_from.masks == "best_of_three"
        points = prompt.point_inputs(self.image_size, self.device)
        if points is None:
            raise ValueError("a mask prompt needs no decoding; track it (policy.sam.tracking.track_objects)")
        encoder = self.sam_prompt_encoder
        with encoder.prompted(prompt):
            sparse, dense = encoder((points["point_coords"], points["point_labels"]), boxes=None, masks=None)
        masks_NMHW, iou_NM, _, presence_N1 = self.sam_mask_decoder(
            image_embeddings=features.levels[-1] + self.no_mem_embed.view(1, -1, 1, 1),
            image_pe=encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            repeat_image=False,
            high_res_features=features.levels[:-1],
        )
        best_N = iou_NM.argmax(dim=1)
        rows_N = torch.arange(len(prompt), device=best_N.device)
        masks_NHW = masks_NMHW[rows_N, best_N] if multimask else masks_NMHW[:, 0]
        return DecodedMasks(masks_NHW.float(), presence_N1[:, 0].float(), iou_NM[rows_N, best_N].float())

    def blanking(self, presence_N: Tensor) -> Tensor | None:
        """Return the presence logits if masks are to be blanked by them, as `blank` of `SamConfig.presence` says."""
        return presence_N if self.built_from.presence == "blank" else None

    def _forward_sam_heads(self, *args, **kwargs):
        """Decode as SAM 2 does, but leave the masks as they are unless `SamConfig.presence` is `blank`.

        Released VideoSEG-O3 (models_qwen3vl/sam2.py) also leaves them, and replaces the object pointer alone.
        """
        if self.built_from.presence == "blank":
            return super()._forward_sam_heads(*args, **kwargs)
        self.pred_obj_scores = False  # the mask decoder, which has a switch of its own, still gives the score
        try:
            outputs = super()._forward_sam_heads(*args, **kwargs)
        finally:
            self.pred_obj_scores = True
        low, high, iou_BM, best_low, best_high, pointer_BC, presence_B1 = outputs
        if self.built_from.presence == "memory":
            pointer_BC = torch.where(presence_B1 > 0, pointer_BC, self.no_obj_ptr)
        return low, high, iou_BM, best_low, best_high, pointer_BC, presence_B1

    def _encode_new_memory(self, *args, object_score_logits: Tensor, **kwargs):
        """Encode a mask for the memory; where the object score is ignored, as that of a present object."""
        if self.built_from.presence == "ignore":
            object_score_logits = torch.ones_like(object_score_logits)
        return super()._encode_new_memory(*args, object_score_logits=object_score_logits, **kwargs)

    def _track_step(self, *args, **kwargs):
        """Keep what SAM 2 drops: predicted IoU [B], and presence logits in train mode too."""
        current_out, sam_outputs, high_res_features, pix_feat = super()._track_step(*args, **kwargs)
        _, _, iou_BM, _, _, _, presence_B1 = sam_outputs
        current_out["predicted_iou"] = iou_BM.amax(dim=1)
        current_out["object_score_logits"] = presence_B1
        return current_out, sam_outputs, high_res_features, pix_feat
