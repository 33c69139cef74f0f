"""A policy as a segmenter: play the episode greedily, prompt SAM 2 with the last [SEG], propagate through the video.

This is the one question that evaluation and prediction ask of any model: video and expression in, tracklet out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from configs.schema import EnvConfig
from env.rle import encode
from env.types import Answer, Select, Task, Trajectory, VideoRef
from policy.batch import Frames, TokenSequence, collate, pack, to_sequence
from policy.model import SegPolicy, binary_masks
from policy.sam import FrameFeatures, track_videos
from policy.sampler import Sampler
from rl.assignment import Assignment
from rl.rollout import Rollout

CHUNK = 16  # frames encoded at once
MAX_PIXELS = 2**25  # of SAM 2's inputs whose features are held at once: 32 frames at 1024 x 1024, 2048 at 128 x 128


class Segmenter:
    """A policy, the sampler that acts for it, and two views of the video: what it is shown, and what SAM 2 sees."""

    def __init__(self, policy: SegPolicy, sampler: Sampler, shown: Frames, frames: Frames, config: EnvConfig):
        self.policy = policy
        self.frames = frames
        self.shown = shown
        self.rollout = Rollout(sampler, policy.chat, policy.layout, shown, config)

    def segment(self, tasks: Sequence[Task], temperature: float, seed: int) -> Iterator[Trajectory]:
        """Trajectories in task order; `masks` of every frame are filled where the last turn can be segmented."""
        yield from self.play([Assignment(task, -1, 0, seed, temperature) for task in tasks])

    def play(self, assignments: Sequence[Assignment]) -> Iterator[Trajectory]:
        """`segment` for assignments."""
        by_id = {trajectory.trajectory_id: trajectory for trajectory in self.rollout.run(assignments)}
        played = [by_id[assignment.trajectory_id] for assignment in assignments]
        yield from self.track(played)

    def track(self, played: Sequence[Trajectory]) -> Iterator[Trajectory]:
        """Played trajectories in their order, each once its masks are there."""
        yield from with_masks(self.policy, played, self.shown, self.frames)


def with_masks(
    policy: SegPolicy, trajectories: Sequence[Trajectory], shown: Frames, frames: Frames
) -> Iterator[Trajectory]:
    """Played trajectories in their order, each once `masks` of every frame are filled where that can be done."""
    yield from track(policy, trajectories, last_prompts(policy, trajectories, shown), frames)


def track(
    policy: SegPolicy, trajectories: Sequence[Trajectory], prompts: Sequence[torch.Tensor | None], frames: Frames
) -> Iterator[Trajectory]:
    """`with_masks` where the last [SEG] states [C] are known; those of None are left as they are."""
    for batch in _batches(policy, trajectories):
        decided = [at for at in batch if prompts[at] is not None]
        propagate(policy, [(trajectories[at], prompts[at]) for at in decided], frames)
        yield from (trajectories[at] for at in batch)


def _batches(policy: SegPolicy, trajectories: Sequence[Trajectory]) -> Iterator[list[int]]:
    """Runs of trajectories whose frames SAM 2 can hold at once and whose videos it can track side by side."""
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
def last_prompts(policy: SegPolicy, trajectories: Sequence[Trajectory], shown: Frames) -> list[torch.Tensor | None]:
    """The projected last [SEG] state [C] of each trajectory; None where its last turn is malformed or has none."""
    prompts: list[torch.Tensor | None] = [None] * len(trajectories)
    rows = [at for at, trajectory in enumerate(trajectories) if isinstance(trajectory.decision, Select | Answer)]
    sequences = [to_sequence(trajectories[at], policy.chat, policy.layout) for at in rows]
    for group in pack([len(sequence) for sequence in sequences], max_tokens=8192):
        picked = [sequences[at] for at in group]
        output = policy(collate(picked, policy.chat, policy.layout, shown, policy.device))
        for at, last in zip(group, _last_rows(picked), strict=True):
            prompts[rows[at]] = output.prompts_MC[last]
    return prompts


def _last_rows(sequences: Sequence[TokenSequence]) -> list[int]:
    """Index of each sequence's last [SEG] among all of the batch's."""
    rows, total = [], 0
    for sequence in sequences:
        total += len(sequence.seg_positions)
        rows.append(total - 1)
    return rows


@torch.no_grad()
def propagate(policy: SegPolicy, prompted: Sequence[tuple[Trajectory, torch.Tensor | None]], frames: Frames) -> None:
    """Fill each trajectory's `masks` by tracking from its decision's key frame both ways through the whole video."""
    encoded = {video: encode_video(policy, video, frames) for video in {item.task.video for item, _ in prompted}}
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
        masks_THW = binary_masks(logits, presence, video.height, video.width).cpu().numpy()
        trajectory.masks = {at: encode(mask) for at, mask in enumerate(masks_THW)}
        trajectory.turns[-1].key_mask = trajectory.masks[key_frame]


def encode_video(policy: SegPolicy, video: VideoRef, frames: Frames) -> FrameFeatures:
    """SAM 2's image features of every frame."""
    chunks = []
    for start in range(0, video.num_frames, CHUNK):
        indices = range(start, min(start + CHUNK, video.num_frames))
        chunks.append(policy.sam.encode_frames([frames.full(video, at) for at in indices]))
    return FrameFeatures.stack(chunks)
