"""Track objects through videos with SAM 2's memory.

`track_objects` takes several conditioning frames per object, each with its own prompt, and goes through a video as
`TrackSettings` say. `track_paths` follows objects along paths of different lengths from one prompted frame each, and
`track_videos` does so both ways through several videos. All three run stock `SAM2Base.track_step` on a `TrackState`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

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
            Masks of B objects; logits are -1024 where the object is predicted absent.
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
            Masks of B objects; logits are -1024 where the object is predicted absent.
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


def track_objects(
    sam: SegSam2, video: FrameFeatures, prompts: Mapping[int, MaskPrompt], settings: TrackSettings
) -> list[DecodedMasks]:
    """Track B objects through one video from one or more conditioning frames.

    The logits equal those of stock `sam2.sam2_video_predictor.SAM2VideoPredictor`, given each conditioning frame in one
    call and run with `propagate_in_video` forwards, then in reverse. For this `order` must be "one_state" and
    `memory_dtype` bfloat16; `multimask`, `max_attended` and `binarize_prompted` must be as in the predictor, which must
    have `fill_hole_area` 0, and `non_overlap_masks` and the decoder's `dynamic_multimask_via_stability` off.

    In train mode SAM 2 has dropout, and frames also attend to pointers of later conditioning frames.

    Args:
        sam: SAM 2 in eval mode, or in train mode for losses on tracked frames.
        video: Features of the T frames.
        prompts: Conditioning frame -> prompts of the B objects on it.
        settings: Order, attention and masks; see there.

    Returns:
        Masks of the B objects on each of the T frames; logits are -1024 where the object is predicted absent.

    Raises:
        ValueError: No conditioning frame, one outside the video, other numbers of objects, or `inject_every_frame`
            with several conditioning frames or without language tokens.
    """
    num_frames = len(video.levels[0])
    _require_prompts(prompts, num_frames, settings)
    first = min(prompts)
    tokens = prompts[first] if settings.inject_every_frame else None
    rows_B = torch.zeros(len(prompts[first]), dtype=torch.long, device=video.levels[0].device)
    state = TrackState(sam, num_frames, settings)
    found: dict[int, DecodedMasks] = {}
    for at in sorted(prompts) if settings.decode_prompted_first else [first]:
        found[at] = state.decode_prompted(at, video.row(at).pick(rows_B), prompts[at])
    back = state.copy() if settings.order == "two_states" else state
    start = 0 if settings.order == "forward" else first
    # The way back in the same state attends to the first frames of the way forward.
    kept = range(first, first + sam.max_obj_ptrs_in_encoder + 1) if settings.order == "one_state" else range(0)
    for frames, memory, step in ((range(start, num_frames), state, 1), (range(start, -1, -1), back, -1)):
        for at in frames:
            if at in found:
                continue
            features = video.row(at).pick(rows_B)
            if at in prompts:
                found[at] = memory.decode_prompted(at, features, prompts[at])
            else:
                found[at] = memory.decode_tracked(at, features, tokens, reverse=step < 0)
            old = at - step * sam.max_obj_ptrs_in_encoder
            if old not in kept:
                memory.forget(old)
    return [found[at] for at in range(num_frames)]


def _require_prompts(prompts: Mapping[int, MaskPrompt], num_frames: int, settings: TrackSettings) -> None:
    if not prompts:
        raise ValueError("no conditioning frame: at least one frame needs a prompt")
    if outside := [at for at in prompts if not 0 <= at < num_frames]:
        raise ValueError(f"conditioning frame {outside[0]} is outside the video of {num_frames} frames")
    if len(counts := {len(prompt) for prompt in prompts.values()}) > 1:
        raise ValueError(f"conditioning frames have prompts of {sorted(counts)} objects; each needs one per object")
    if not settings.inject_every_frame:
        return
    if len(prompts) > 1 or next(iter(prompts.values())).tokens_BNC is None:
        raise ValueError("inject_every_frame needs exactly one conditioning frame, with language tokens")


def track_paths(
    sam: SegSam2, steps: Iterable[FrameFeatures], prompts_BC: Tensor, num_frames: int
) -> Iterator[DecodedMasks]:
    """Prompt the first frame of B paths with a language token, then follow each path with SAM 2's memory.

    A path may run backwards in time: SAM 2's memory knows distances only.

    Args:
        sam: SAM 2; its config says whether the token prompts every frame (`inject_every_frame`).
        steps: Per step, features with one row for each path that is that long. Paths are sorted, the longest first.
        prompts_BC: One language token per path.
        num_frames: Length of the whole video, which limits the number of object pointers.

    Yields:
        Masks of the paths at each step; logits are -1024 where the object is predicted absent.
    """
    state = TrackState(sam, num_frames, TrackSettings(inject_every_frame=sam.built_from.inject_every_frame))
    prompt = MaskPrompt.language(prompts_BC)
    for step, features in enumerate(steps):
        rows = len(features.levels[0])
        if rows < len(prompt):
            prompt = prompt.first(rows)
            state.keep_first(rows)
        if step == 0:
            yield state.decode_prompted(step, features, prompt)
        else:
            yield state.decode_tracked(step, features, prompt if sam.built_from.inject_every_frame else None)
            state.forget(step - sam.max_obj_ptrs_in_encoder)


def track_videos(
    sam: SegSam2, videos: Sequence[FrameFeatures], prompts_NC: Tensor, key_frames: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """Track one object through each of N videos from its key frame both ways, all side by side.

    The two ways know nothing of each other: each is `track_objects` with the default settings and one conditioning
    frame (`inject_every_frame` as the config of SAM 2 says), on videos of different lengths at once.

    Args:
        sam: SAM 2.
        videos: Features of the frames of each video. All videos are of one length, or at least as long as SAM 2's
            number of object pointers.
        prompts_NC: One language token per video.
        key_frames: The prompted frame of each video.

    Returns:
        Mask logits [T, h, w] and presence logits [T] for each video.
    """
    paths = []
    for video, (features, key) in enumerate(zip(videos, key_frames, strict=True)):
        paths += [(video, range(key, len(features.levels[0]))), (video, range(key, -1, -1))]
    paths.sort(key=lambda path: -len(path[1]))
    steps = (
        FrameFeatures.stack([videos[video].row(frames[step]) for video, frames in paths if step < len(frames)])
        for step in range(len(paths[0][1]))
    )
    index = torch.tensor([video for video, _ in paths], device=prompts_NC.device)
    num_frames = max(len(features.levels[0]) for features in videos)
    logits: list[dict[int, Tensor]] = [{} for _ in videos]
    presence: list[dict[int, Tensor]] = [{} for _ in videos]
    for step, masks in enumerate(track_paths(sam, steps, prompts_NC[index], num_frames)):
        for row, (video, frames) in enumerate(paths[: len(masks.presence_N)]):
            logits[video][frames[step]] = masks.logits_NHW[row]
            presence[video][frames[step]] = masks.presence_N[row]
    return [
        (torch.stack([masks[at] for at in sorted(masks)]), torch.stack([scores[at] for at in sorted(scores)]))
        for masks, scores in zip(logits, presence, strict=True)
    ]


def _flat(levels: Sequence[Tensor]) -> list[Tensor]:
    """Return levels [B, C, H, W] as [H W, B, C]."""
    return [level.flatten(2).permute(2, 0, 1) for level in levels]


def _sizes(features: FrameFeatures) -> list[tuple[int, int]]:
    return [(level.shape[-2], level.shape[-1]) for level in features.levels]


def _masks(output: dict[str, Any]) -> DecodedMasks:
    return DecodedMasks(output["pred_masks"][:, 0], output["object_score_logits"][:, 0], output["predicted_iou"])
