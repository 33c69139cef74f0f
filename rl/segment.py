"""A policy as a segmenter: play the episode greedily, prompt SAM 2 with the last [SEG], propagate through the video.

This is the one question that evaluation and prediction ask of any model: video and expression in, tracklet out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from configs.schema import EnvConfig
from env.types import Answer, Select, Task, Trajectory
from policy.batch import Frames, TokenSequence, collate, pack, to_sequence
from policy.model import SegPolicy, binary_masks
from policy.sam import FrameFeatures
from policy.sampler import Sampler
from rewards.rle import encode
from rl.rollout import Assignment, Rollout

CHUNK = 16  # frames encoded at once


class Segmenter:
    """A policy, the sampler that acts for it, and two views of the video: what it is shown, and what SAM 2 sees."""

    def __init__(self, policy: SegPolicy, sampler: Sampler, shown: Frames, frames: Frames, config: EnvConfig):
        self.policy = policy
        self.frames = frames
        self.shown = shown
        self.rollout = Rollout(sampler, policy.chat, policy.layout, shown, config)

    def segment(self, tasks: Sequence[Task], temperature: float, seed: int) -> Iterator[Trajectory]:
        """Trajectories in task order; `masks` of every frame are filled where the last turn can be segmented."""
        assignments = [Assignment(task, -1, 0, seed, temperature) for task in tasks]
        by_id = {trajectory.trajectory_id: trajectory for trajectory in self.rollout.run(assignments)}
        trajectories = [by_id[assignment.trajectory_id] for assignment in assignments]
        prompts = last_prompts(self.policy, trajectories, self.shown)
        for trajectory, prompt_C in zip(trajectories, prompts, strict=True):
            if prompt_C is not None:
                propagate(self.policy, trajectory, prompt_C, self.frames)
            yield trajectory


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
def propagate(policy: SegPolicy, trajectory: Trajectory, prompt_C: torch.Tensor, frames: Frames) -> None:
    """Fill `trajectory.masks` by tracking from the decision's key frame both ways through the whole video."""
    decision, video = trajectory.decision, trajectory.task.video
    assert isinstance(decision, Select | Answer)
    features: list[FrameFeatures] = []
    for start in range(0, video.num_frames, CHUNK):
        indices = range(start, min(start + CHUNK, video.num_frames))
        chunk = policy.sam.encode_frames([frames.full(video, at) for at in indices])
        features += [chunk.pick(torch.tensor([at], device=policy.device)) for at in range(len(indices))]
    outputs = policy.sam.track(features, prompt_C[None].float(), decision.key_frame)
    logits = torch.cat([output["pred_masks"][:, 0] for output in outputs])
    presence = torch.cat([output["object_score_logits"][:, 0] for output in outputs])
    masks_THW = binary_masks(logits, presence, video.height, video.width).cpu().numpy()
    trajectory.masks = {at: encode(mask) for at, mask in enumerate(masks_THW)}
    trajectory.turns[-1].key_mask = trajectory.masks[decision.key_frame]
