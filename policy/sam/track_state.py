"""SAM 2's memory of objects in a video: how it is used (`TrackSettings`), and the steps that extend it (`TrackState`).

Every step is stock `SAM2Base.track_step`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from configs.policy_schema import SamConfig
from policy.sam.model import DecodedMasks, FrameFeatures, SegSam2
from policy.sam.prompts import MaskPrompt


@dataclass(frozen=True)
class TrackSettings:
    """How SAM 2 goes through a video; the defaults are those of VideoSEG-O3.

    `order`: "forward" goes from frame 0 to the last; frames before the first conditioning frame attend to later ones
    (VIRST). "one_state" goes from the first conditioning frame to the end, then back to frame 0, and the way back
    attends to memories of the way forward (stock `SAM2VideoPredictor`, SteerSeg). "two_states" does the same with a
    memory of its own for each way, after those of the conditioning frames decoded up front.
    """

    order: Literal["forward", "one_state", "two_states"] = "two_states"
    decode_prompted_first: bool = True
    """Whether all conditioning frames are decoded before any other. Otherwise only the first one is, and the others in
    order of time, so that a tracked frame attends to no later prompt (VIRST's training)."""
    inject_every_frame: bool = False
    """Whether the language tokens also prompt the tracked frames, as released VideoSEG-O3 does; only with one
    conditioning frame."""
    max_attended: int = -1
    """Most conditioning frames that a tracked frame attends to, the nearest ones (SAM 2's `max_cond_frames_in_attn`);
    -1: all of them, else at least 2."""
    multimask: Literal["never", "prompted", "always"] = "never"
    """Which frames are decoded into three masks, of which that of highest predicted IoU is taken. SAM 2 never does so
    for frames with more than one point."""
    binarize_prompted: bool = False
    """Whether memories of conditioning frames are encoded from binary masks instead of probabilities (SAM 2's
    `binarize_mask_from_pts_for_mem_enc`, on in its published video predictor)."""
    memory_dtype: torch.dtype = torch.float32
    """Precision that memories are rounded to; the stock predictor uses bfloat16."""

    @classmethod
    def of(cls, config: SamConfig) -> TrackSettings:
        """Return the settings with which the policy of VideoSEG-O3 tracks: the defaults, and what its SAM 2 asks."""
        multimask = "always" if config.masks == "best_of_three" else "never"
        return cls(inject_every_frame=config.inject_every_frame, multimask=multimask)

    def __post_init__(self) -> None:
        if self.max_attended != -1 and self.max_attended < 2:
            raise ValueError(f"max_attended: expected -1 (all) or at least 2, got {self.max_attended}")


class TrackState:
    """SAM 2's memory of B objects that are tracked side by side, and the steps that extend it.

    Memories of conditioning frames are encoded as `SAM2VideoPredictor` encodes them: from the mask at low resolution,
    enlarged. That matters for mask prompts alone.
    """

    def __init__(self, sam: SegSam2, num_frames: int, settings: TrackSettings):
        self._sam = sam
        self._num_frames = num_frames
        self._settings = settings
        self._prompted: dict[int, dict[str, Any]] = {}  # frame -> SAM 2's output on a conditioning frame
        self._tracked: dict[int, dict[str, Any]] = {}  # frame -> SAM 2's output on another frame

    def copy(self) -> TrackState:
        """Return a state with the same memories, which from now on are extended apart."""
        other = TrackState(self._sam, self._num_frames, self._settings)
        other._prompted, other._tracked = dict(self._prompted), dict(self._tracked)
        return other

    def decode_prompted(self, at: int, features: FrameFeatures, prompt: MaskPrompt) -> DecodedMasks:
        """Decode a conditioning frame without memory and remember it.

        Args:
            at: Index of the frame.
            features: Features of that frame, a row for each of the B objects.
            prompt: Prompts of the B objects.

        Returns:
            Masks of B objects; logits are -1024 where one is predicted absent, with `blank` of `SamConfig.presence`.
        """
        sam = self._sam
        points = prompt.point_inputs(sam.image_size, sam.device)
        output = self._step(
            at, features, prompt, points, prompt.mask_inputs(sam.image_size, sam.device), is_init_cond_frame=True
        )
        size = (sam.image_size, sam.image_size)
        with self._switches():
            output["maskmem_features"], output["maskmem_pos_enc"] = sam._encode_new_memory(
                current_vision_feats=_flat(features.levels),
                feat_sizes=_sizes(features),
                pred_masks_high_res=F.interpolate(output["pred_masks"], size, mode="bilinear", align_corners=False),
                object_score_logits=output["object_score_logits"],
                is_mask_from_pts=True,
            )
        self._prompted[at] = self._kept(output)
        return _masks(output)

    def decode_tracked(
        self, at: int, features: FrameFeatures, tokens: MaskPrompt | None = None, reverse: bool = False
    ) -> DecodedMasks:
        """Decode a frame from the memory and remember it.

        Args:
            at: Index of the frame.
            features: Features of that frame, a row for each of the B objects.
            tokens: Language tokens that prompt this frame too.
            reverse: Whether the frames just tracked are later ones.

        Returns:
            Masks of B objects; logits are -1024 where one is predicted absent, with `blank` of `SamConfig.presence`.
        """
        output = self._step(at, features, tokens, None, None, is_init_cond_frame=False, track_in_reverse=reverse)
        self._tracked[at] = self._kept(output)
        return _masks(output)

    def forget(self, at: int) -> None:
        """Drop the memory of a tracked frame, if there is one: SAM 2 looks back `max_obj_ptrs_in_encoder` frames."""
        self._tracked.pop(at, None)

    def keep_first(self, count: int) -> None:
        """Drop all but the first `count` objects."""
        for memories in (self._prompted, self._tracked):
            for at, memory in memories.items():
                memories[at] = {
                    "maskmem_features": memory["maskmem_features"][:count],
                    "maskmem_pos_enc": [level[:count] for level in memory["maskmem_pos_enc"]],
                    "obj_ptr": memory["obj_ptr"][:count],
                }

    def _step(
        self,
        at: int,
        features: FrameFeatures,
        prompt: MaskPrompt | None,
        points: dict[str, Tensor] | None,
        mask_B1HW: Tensor | None,
        *,
        is_init_cond_frame: bool,
        track_in_reverse: bool = False,
    ) -> dict[str, Any]:
        with self._switches(), self._sam.sam_prompt_encoder.prompted(prompt):
            return self._sam.track_step(
                frame_idx=at,
                is_init_cond_frame=is_init_cond_frame,
                current_vision_feats=_flat(features.levels),
                current_vision_pos_embeds=_flat(features.positions),
                feat_sizes=_sizes(features),
                point_inputs=points,
                mask_inputs=mask_B1HW,
                output_dict={"cond_frame_outputs": self._prompted, "non_cond_frame_outputs": self._tracked},
                num_frames=self._num_frames,
                track_in_reverse=track_in_reverse,
                run_mem_encoder=not is_init_cond_frame,
            )

    @contextmanager
    def _switches(self) -> Iterator[None]:
        """Set SAM 2's own switches as the settings say, for one step."""
        settings = self._settings
        switches = {
            "max_cond_frames_in_attn": settings.max_attended,
            "multimask_output_in_sam": settings.multimask != "never",
            "multimask_output_for_tracking": settings.multimask == "always",
            "binarize_mask_from_pts_for_mem_enc": settings.binarize_prompted,
        }
        before = {name: getattr(self._sam, name) for name in switches}
        try:
            for name, value in switches.items():
                setattr(self._sam, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(self._sam, name, value)

    def _kept(self, output: dict[str, Any]) -> dict[str, Any]:
        """Return the part of SAM 2's output that later frames attend to."""
        features = output["maskmem_features"]
        return {
            "maskmem_features": features.to(self._settings.memory_dtype).to(features.dtype),
            "maskmem_pos_enc": output["maskmem_pos_enc"],
            "obj_ptr": output["obj_ptr"],
        }


def _flat(levels: Sequence[Tensor]) -> list[Tensor]:
    """Return levels [B, C, H, W] as [H W, B, C]."""
    return [level.flatten(2).permute(2, 0, 1) for level in levels]


def _sizes(features: FrameFeatures) -> list[tuple[int, int]]:
    return [(level.shape[-2], level.shape[-1]) for level in features.levels]


def _masks(output: dict[str, Any]) -> DecodedMasks:
    return DecodedMasks(output["pred_masks"][:, 0], output["object_score_logits"][:, 0], output["predicted_iou"])
