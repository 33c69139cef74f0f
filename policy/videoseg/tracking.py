"""Compute the masks of finished trajectories.

The last [SEG] prompts SAM 2 on the key frame, and SAM 2's memory carries the mask through the video. A trajectory whose
frames cannot be read ends in an error, and the others are not affected. A failed trajectory gets no masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from env.errors import DataError
from env.frames import FrameCaches
from env.rle import encode
from env.types import Answer, Select, Trajectory, VideoRef
from policy.sam.losses import binary_masks
from policy.sam.model import FrameFeatures
from policy.sam.tracking import track_videos
from policy.videoseg.model import SegPolicy
from policy.vlm.batch import FrameSource, TokenSequence, collate, pack, to_sequence

CHUNK = 16  # frames encoded at once
MAX_PIXELS = 2**25  # of SAM 2's inputs whose features are kept at once: 32 frames at 1024 x 1024, 2048 at 128 x 128


def with_masks(policy: SegPolicy, trajectories: Sequence[Trajectory], frames: FrameCaches) -> Iterator[Trajectory]:
    """Yield trajectories in order, with `masks` of all frames where the last turn has a decision.

    Args:
        policy: The policy that wrote the trajectories.
        trajectories: Finished trajectories, filled in place.
        frames: Sources of pixels for the policy and for SAM 2.
    """
    yield from track(policy, trajectories, last_prompts(policy, trajectories, frames.policy), frames.sam)


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

    def run(rows: Sequence[int]) -> None:
        propagate(policy, [(trajectories[at], prompts[at]) for at in rows], sam_frames)

    for batch in _batches(policy, trajectories):
        _or_one_by_one(run, [at for at in batch if prompts[at] is not None], trajectories)
        yield from (trajectories[at] for at in batch)


def _or_one_by_one(
    run: Callable[[Sequence[int]], None], rows: Sequence[int], trajectories: Sequence[Trajectory]
) -> None:
    """Run over several trajectories at once; if data cannot be read, over each alone, and fail those that need it.

    Args:
        run: Called with positions in `trajectories`; it raises DataError for data that cannot be read.
        rows: All positions.
        trajectories: Those that `rows` refers to.
    """
    try:
        run(rows)
    except DataError:
        for at in rows:
            try:
                run([at])
            except DataError as error:
                trajectories[at].fail(str(error))


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
    policy: SegPolicy, trajectories: Sequence[Trajectory], policy_frames: FrameSource
) -> list[torch.Tensor | None]:
    """Return the projected last [SEG] state [C] of each trajectory; None where its last turn has no decision.

    A failed trajectory has None too.

    Args:
        policy: The policy that wrote the trajectories.
        trajectories: Finished trajectories.
        policy_frames: Source of the policy's pixels.
    """
    prompts: list[torch.Tensor | None] = [None] * len(trajectories)
    sequences = {
        at: to_sequence(trajectory, policy.chat, policy.layout)
        for at, trajectory in enumerate(trajectories)
        if isinstance(trajectory.decision, Select | Answer) and not trajectory.has_failed
    }

    def run(rows: Sequence[int]) -> None:
        picked = [sequences[at] for at in rows]
        output = policy(collate(picked, policy.chat, policy.layout, policy_frames, policy.device))
        for at, last in zip(rows, _last_rows(picked), strict=True):
            prompts[at] = output.prompts_MC[last]

    rows = list(sequences)
    for group in pack([len(sequences[at]) for at in rows], max_tokens=8192):
        _or_one_by_one(run, [rows[at] for at in group], trajectories)
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
    """Fill the `masks` of trajectories by tracking from the key frame of their decision to both ends of the video.

    Args:
        policy: The policy whose SAM 2 tracks.
        prompted: Trajectories whose last turn is a selection or an answer, each with its projected [SEG] state [C].
        sam_frames: Source of SAM 2's pixels.
    """
    encoded = {video: encode_video(policy, video, sam_frames) for video in {item.task.video for item, _ in prompted}}
    prompts, keys = [], []
    for trajectory, prompt_C in prompted:
        decision = trajectory.decision
        assert prompt_C is not None and isinstance(decision, Select | Answer)
        prompts.append(prompt_C.float())
        keys.append(decision.key_frame)
    if not prompts:
        return
    videos = [encoded[trajectory.task.video] for trajectory, _ in prompted]
    tracked = track_videos(policy.sam, videos, torch.stack(prompts), keys)
    for (trajectory, _), key_frame, (logits, presence) in zip(prompted, keys, tracked, strict=True):
        video = trajectory.task.video
        if not torch.isfinite(logits).all():  # it would read as an empty mask
            trajectory.fail("SAM 2's mask logits are not finite; are the weights of the checkpoint damaged?")
            continue
        masks_THW = binary_masks(logits, presence, video.height, video.width).cpu().numpy()
        trajectory.masks = {at: encode(mask) for at, mask in enumerate(masks_THW)}
        trajectory.turns[-1].key_mask = trajectory.masks[key_frame]


def encode_video(policy: SegPolicy, video: VideoRef, sam_frames: FrameSource) -> FrameFeatures:
    """Return SAM 2's image features of every frame."""
    chunks = []
    for start in range(0, video.num_frames, CHUNK):
        indices = range(start, min(start + CHUNK, video.num_frames))
        chunks.append(policy.sam.encode_frames([sam_frames.full(video, at) for at in indices]))
    return FrameFeatures.stack(chunks)
