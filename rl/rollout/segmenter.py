"""A policy as a segmenter: play the episode greedily, prompt SAM 2 with the last [SEG], propagate through the video.

This is the one question that evaluation and prediction ask of any model: video and expression in, tracklet out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from configs.schema import EnvConfig
from env.frames import FrameCaches
from env.types import Task, Trajectory
from policy.engines.base import Sampler
from policy.videoseg.model import SegPolicy
from policy.videoseg.tracking import with_masks
from rl.rollout.episode_runner import EpisodeRunner
from rl.rollout.request import RolloutRequest


class Segmenter:
    """The multi-turn policy with the sampler that acts for it."""

    def __init__(self, policy: SegPolicy, sampler: Sampler, frames: FrameCaches, config: EnvConfig):
        self.policy = policy
        self.frames = frames
        self.rollout = EpisodeRunner(sampler, policy.chat, policy.layout, frames.policy, config)

    def segment(self, tasks: Sequence[Task], temperature: float, seed: int) -> Iterator[Trajectory]:
        """Trajectories in task order; `masks` of every frame are filled where the last turn can be segmented."""
        yield from self.play([RolloutRequest(task, -1, 0, seed, temperature) for task in tasks])

    def play(self, requests: Sequence[RolloutRequest]) -> Iterator[Trajectory]:
        """`segment` for assignments."""
        by_id = {trajectory.trajectory_id: trajectory for trajectory in self.rollout.run(requests)}
        played = [by_id[assignment.trajectory_id] for assignment in requests]
        yield from self.track(played)

    def track(self, played: Sequence[Trajectory]) -> Iterator[Trajectory]:
        """Played trajectories in their order, each once its masks are there."""
        yield from with_masks(self.policy, played, self.frames)
