"""Compute the masks of finished trajectories.

The last [SEG] prompts SAM 2 on the key frame, and SAM 2's memory carries the mask through the video.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from env.frames import FrameCaches
from env.rle import encode
from env.types import Malformed, Trajectory, VideoRef
from policy.sam.losses import binary_masks
from policy.sam.model import FrameFeatures
from policy.sam.tracking import track_videos
from policy.videoseg.model import SegPolicy
from policy.videoseg.start_frame import is_decoded, start_frame
from policy.vlm.batch import FrameSource, TokenSequence, collate, pack, to_sequence

CHUNK = 16  # frames encoded at once
MAX_PIXELS = 2**25  # of SAM 2's inputs whose features are kept at once: 32 frames at 1024 x 1024, 2048 at 128 x 128


def with_masks(
    policy: SegPolicy, trajectories: Sequence[Trajectory], frames: FrameCaches, malformed: str = "empty"
) -> Iterator[Trajectory]:
    """Yield trajectories in order, with `masks` of all frames where the last turn has a decision.

    Args:
        policy: The policy that wrote the trajectories.
        trajectories: Finished trajectories, filled in place.
        frames: Sources of pixels for the policy and for SAM 2.
        malformed: `eval.malformed`; with `decode` a last text with [SEG] has masks too where it has no decision.
    """
    yield from track(policy, trajectories, last_prompts(policy, trajectories, frames.policy, malformed), frames.sam)


def track(
    policy: SegPolicy,
    trajectories: Sequence[Trajectory],
    prompts: Sequence[torch.Tensor | None],
    sam_frames: FrameSource,
) -> Iterator[Trajectory]:
    """Yield trajectories in order, with the masks of known prompts.

    Args:
        policy: The policy whose SAM 2 tracks.
        trajectories: Finished trajectories, filled in place.
        prompts: Projected last [SEG] state [C] of each trajectory; those with None get no masks.
        sam_frames: Source of SAM 2's pixels.
    """
    for batch in _batches(policy, trajectories):
        decided = [at for at in batch if prompts[at] is not None]
        propagate(policy, [(trajectories[at], prompts[at]) for at in decided], sam_frames)
        yield from (trajectories[at] for at in batch)


def _batches(policy: SegPolicy, trajectories: Sequence[Trajectory]) -> Iterator[list[int]]:
    """Yield batches of consecutive trajectories whose videos fit into memory and can be tracked side by side."""
    most_frames = MAX_PIXELS // policy.sam.image_size**2
    batch: list[int] = []
    videos: set[VideoRef] = set()
    for at, trajectory in enumerate(trajectories):
        wider = videos | {trajectory.task.video}
        num_frames = sum(video.num_frames for video in wider)
        lengths = {min(video.num_frames, policy.sam.max_obj_ptrs_in_encoder) for video in wider}
        if batch and (num_frames > most_frames or len(lengths) > 1):
            yield batch
            batch, wider = [], {trajectory.task.video}
        batch.append(at)
        videos = wider
    if batch:
        yield batch


@torch.no_grad()
def last_prompts(
    policy: SegPolicy, trajectories: Sequence[Trajectory], policy_frames: FrameSource, malformed: str = "empty"
) -> list[torch.Tensor | None]:
    """Return the projected last [SEG] state [C] of each trajectory; None where it is not decoded.

    Args:
        policy: The policy that wrote the trajectories.
        trajectories: Finished trajectories.
        policy_frames: Source of the policy's pixels.
        malformed: `eval.malformed`.
    """
    prompts: list[torch.Tensor | None] = [None] * len(trajectories)
    rows, sequences = [], []
    for at, trajectory in enumerate(trajectories):
        if is_decoded(trajectory, malformed):
            sequence = to_sequence(trajectory, policy.chat, policy.layout)
            if len(trajectory.turns) - 1 in sequence.seg_turns:
                rows.append(at)
                sequences.append(sequence)
    for group in pack([len(sequence) for sequence in sequences], max_tokens=8192):
        picked = [sequences[at] for at in group]
        output = policy(collate(picked, policy.chat, policy.layout, policy_frames, policy.device))
        for at, last in zip(group, _last_rows(picked), strict=True):
            prompts[rows[at]] = output.prompts_MC[last]
    return prompts


def _last_rows(sequences: Sequence[TokenSequence]) -> list[int]:
    """Return the index of each sequence's last [SEG] among those of the whole batch."""
    rows, total = [], 0
    for sequence in sequences:
        total += len(sequence.seg_positions)
        rows.append(total - 1)
    return rows


@torch.no_grad()
def propagate(
    policy: SegPolicy, prompted: Sequence[tuple[Trajectory, torch.Tensor | None]], sam_frames: FrameSource
) -> None:
    """Fill the `masks` of trajectories by tracking from their key frame (`start_frame`) to both ends of the video.

    Args:
        policy: The policy whose SAM 2 tracks.
        prompted: Trajectories with a [SEG] in the last turn, each with its projected state [C].
        sam_frames: Source of SAM 2's pixels.
    """
    encoded = {video: encode_video(policy, video, sam_frames) for video in {item.task.video for item, _ in prompted}}
    prompts, keys = [], []
    for trajectory, prompt_C in prompted:
        assert prompt_C is not None
        prompts.append(prompt_C.float())
        keys.append(start_frame(trajectory))
    if not prompts:
        return
    videos = [encoded[trajectory.task.video] for trajectory, _ in prompted]
    tracked = track_videos(policy.sam, videos, torch.stack(prompts), keys)
    for (trajectory, _), key_frame, (logits, presence) in zip(prompted, keys, tracked, strict=True):
        video = trajectory.task.video
        masks_THW = binary_masks(logits, presence, video.height, video.width).cpu().numpy()
        trajectory.masks = {at: encode(mask) for at, mask in enumerate(masks_THW)}
        last = trajectory.turns[-1]
        last.key_mask = trajectory.masks[key_frame]
        if isinstance(last.decision, Malformed):
            last.mask_frame = key_frame


def encode_video(policy: SegPolicy, video: VideoRef, sam_frames: FrameSource) -> FrameFeatures:
    """Return SAM 2's image features of every frame."""
    chunks = []
    for start in range(0, video.num_frames, CHUNK):
        indices = range(start, min(start + CHUNK, video.num_frames))
        chunks.append(policy.sam.encode_frames([sam_frames.full(video, at) for at in indices]))
    return FrameFeatures.stack(chunks)
