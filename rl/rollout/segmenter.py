"""The policy as a segmenter: run the episode, prompt SAM 2 with the last [SEG], and track through the video.

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
    """The multi-turn policy with the sampler that writes its turns."""

    def __init__(self, policy: SegPolicy, sampler: Sampler, frames: FrameCaches, config: EnvConfig):
        self.policy = policy
        self.frames = frames
        self.rollout = EpisodeRunner(sampler, policy.chat, policy.layout, frames.policy, config)

    def segment(self, tasks: Sequence[Task], temperature: float, seed: int) -> Iterator[Trajectory]:
        """Yield the trajectories of tasks in their order, with the masks of every frame if the last turn has a [SEG].

        Args:
            tasks: What to segment.
            temperature: Sampling temperature; 0 is greedy.
            seed: Of the sampling.
        """
        yield from self.run([RolloutRequest(task, -1, 0, seed, temperature) for task in tasks])

    def run(self, requests: Sequence[RolloutRequest]) -> Iterator[Trajectory]:
        """Yield the trajectories of requests in their order, with masks."""
        by_id = {trajectory.trajectory_id: trajectory for trajectory in self.rollout.run(requests)}
        yield from self.track([by_id[request.trajectory_id] for request in requests])

    def track(self, trajectories: Sequence[Trajectory]) -> Iterator[Trajectory]:
        """Yield finished trajectories in their order, each once its masks are filled in."""
        yield from with_masks(self.policy, trajectories, self.frames)
