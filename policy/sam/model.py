"""SAM 2 prompted by a language embedding: the `sam2` package's own classes with one more sparse prompt.

The projected [SEG] state joins the sparse prompts of every frame that is decoded while it is set: the key frame, and
propagated frames too, as in the released VideoSEG-O3 evaluation (`inject_every_frame`). Everything else is stock SAM 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from configs.schema import SamConfig

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class LanguagePromptEncoder(PromptEncoder):
    """SAM's prompt encoder that appends `language_B1C` to the sparse prompts while it is set."""

    language_B1C: Tensor | None = None

    def forward(self, points, boxes, masks):
        sparse_BPC, dense_BCHW = super().forward(points, boxes, masks)
        if self.language_B1C is not None:
            sparse_BPC = torch.cat([sparse_BPC, self.language_B1C], dim=1)
        return sparse_BPC, dense_BCHW


@dataclass(frozen=True)
class FrameFeatures:
    """Image features of N frames: three levels, each [N, C, H, W], finest first, and their position encodings."""

    levels: list[Tensor]
    positions: list[Tensor]

    @classmethod
    def stack(cls, rows: Sequence[FrameFeatures]) -> FrameFeatures:
        """All rows of several, in order."""
        levels = [torch.cat(parts) for parts in zip(*(row.levels for row in rows), strict=True)]
        return cls(levels, [torch.cat(parts) for parts in zip(*(row.positions for row in rows), strict=True)])

    def row(self, index: int) -> FrameFeatures:
        """One frame's features, not copied."""
        at = slice(index, index + 1)
        return FrameFeatures([level[at] for level in self.levels], [position[at] for position in self.positions])

    def pick(self, index: Tensor) -> FrameFeatures:
        """Rows `index` [M] of every level."""
        return FrameFeatures([level[index] for level in self.levels], [position[index] for position in self.positions])


class SegSam2(SAM2Base):
    """SAM 2 with a language prompt: independent decoding of frames, and tracking through a video."""

    sam_prompt_encoder: LanguagePromptEncoder
    built_from: SamConfig  # what `build_sam` was given, less the file of its weights

    def _build_sam_heads(self) -> None:
        super()._build_sam_heads()
        side = self.sam_image_embedding_size
        self.sam_prompt_encoder = LanguagePromptEncoder(
            embed_dim=self.sam_prompt_embed_dim,
            image_embedding_size=(side, side),
            input_image_size=(self.image_size, self.image_size),
            mask_in_chans=16,
        )

    def encode_frames(self, frames: list[np.ndarray], train_backbone: bool = False) -> FrameFeatures:
        """Features of RGB frames (uint8 [H, W, 3], any size; each is squeezed to the square SAM 2 expects)."""
        images = torch.stack([self._to_image(frame) for frame in frames])
        with torch.set_grad_enabled(train_backbone and torch.is_grad_enabled()):
            out = self.image_encoder(images)
        levels = list(out["backbone_fpn"])
        levels[0] = self.sam_mask_decoder.conv_s0(levels[0])
        levels[1] = self.sam_mask_decoder.conv_s1(levels[1])
        return FrameFeatures(levels, [position.expand(len(frames), -1, -1, -1) for position in out["vision_pos_enc"]])

    def _to_image(self, frame: np.ndarray) -> Tensor:
        pixels = torch.tensor(frame).to(self.device).permute(2, 0, 1).float()[None] / 255
        side = self.image_size
        if pixels.shape[-2:] != (side, side):
            pixels = F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True)
        mean = torch.tensor(MEAN, device=self.device).view(3, 1, 1)
        std = torch.tensor(STD, device=self.device).view(3, 1, 1)
        return (pixels[0] - mean) / std

    def decode(self, features: FrameFeatures, prompts_NC: Tensor) -> tuple[Tensor, Tensor]:
        """Mask logits [N, h, w] at a quarter of the image side and presence logits [N], each frame on its own.

        No memory is used (`no_mem_embed` stands in for it), so rewards and mask losses need no propagation.
        """
        num = len(prompts_NC)
        pixels = features.levels[-1] + self.no_mem_embed.view(1, -1, 1, 1)
        coords = torch.zeros(num, 1, 2, device=pixels.device)
        labels = -torch.ones(num, 1, dtype=torch.int32, device=pixels.device)
        encoder = self.sam_prompt_encoder
        encoder.language_B1C = prompts_NC[:, None]
        sparse, dense = encoder(points=(coords, labels), boxes=None, masks=None)
        encoder.language_B1C = None
        masks_N1HW, _, _, presence_N1 = self.sam_mask_decoder(
            image_embeddings=pixels,
            image_pe=encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
            repeat_image=False,
            high_res_features=features.levels[:-1],
        )
        return masks_N1HW[:, 0].float(), presence_N1[:, 0].float()

    def track(self, steps: Iterable[FrameFeatures], prompts_BC: Tensor, num_frames: int) -> Iterator[dict[str, Tensor]]:
        """Prompt the first frame of B paths, then follow each along its path with SAM 2's memory.

        `steps` holds, per step, one row for each path that is that long; paths come longest first, so that those that
        have ended fall off at the end. A path may run backwards in time: SAM 2's memory knows distances only.
        `num_frames` is the length of the whole video. Yields SAM 2's output per step: `pred_masks` [rows, 1, h, w]
        logits (-1024 where the object is judged absent) and `object_score_logits` [rows, 1].
        """
        memory = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
        prompts = prompts_BC[:, None]
        for step, features in enumerate(steps):
            rows = len(features.levels[0])
            if rows < len(prompts):
                prompts = prompts[:rows]
                memory = {
                    kind: {at: _first(output, rows) for at, output in kept.items()} for kind, kept in memory.items()
                }
            is_prompted = step == 0 or self.built_from.inject_every_frame
            self.sam_prompt_encoder.language_B1C = prompts if is_prompted else None
            output = self._track_frame(features, step, memory, num_frames)
            self.sam_prompt_encoder.language_B1C = None
            memory["non_cond_frame_outputs" if step else "cond_frame_outputs"][step] = output
            # SAM 2 looks back no further than its object pointers: older outputs only cost memory.
            memory["non_cond_frame_outputs"].pop(step - self.max_obj_ptrs_in_encoder, None)
            yield output

    def _track_frame(self, features: FrameFeatures, step: int, memory, num_frames: int) -> dict[str, Tensor]:
        levels, positions = features.levels, features.positions
        return self.track_step(
            frame_idx=step,
            is_init_cond_frame=step == 0,
            current_vision_feats=[level.flatten(2).permute(2, 0, 1) for level in levels],
            current_vision_pos_embeds=[position.flatten(2).permute(2, 0, 1) for position in positions],
            feat_sizes=[(level.shape[-2], level.shape[-1]) for level in levels],
            point_inputs=None,
            mask_inputs=None,
            output_dict=memory,
            num_frames=num_frames,
        )


def _first(output: dict, rows: int) -> dict:
    """SAM 2's output of one step, without all but the first `rows` objects."""
    shortened = {}
    for name, value in output.items():
        if isinstance(value, Tensor):
            value = value[:rows]
        elif isinstance(value, list):  # position encodings of the memory, by level
            value = [tensor[:rows] for tensor in value]
        shortened[name] = value
    return shortened
