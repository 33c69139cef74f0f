"""The multi-turn policy as a segmenter: run the episode, prompt SAM 2 with the last [SEG], propagate the mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from configs.schema import EnvConfig
from env.frames import FrameCaches
from env.types import Task, Trajectory
from policy.engines.base import Sampler
from policy.videoseg.model import SegPolicy
from policy.videoseg.tracking import with_masks
from rl.rollout.episode_runner import EpisodeRunner
from rl.rollout.request import RolloutRequest, RolloutStats


class MultiTurnSegmenter:
    """The multi-turn policy with the sampler that acts for it (`policy.segmenter.Segmenter`)."""

    def __init__(
        self, policy: SegPolicy, sampler: Sampler, frames: FrameCaches, config: EnvConfig, malformed: str = "empty"
    ):
        """Make the segmenter.

        Args:
            policy: The policy, which tracks.
            sampler: Writes its turns, with the same weights.
            frames: Where pixels are read.
            config: Of the episodes.
            malformed: `eval.malformed`.
        """
        self.policy = policy
        self._malformed = malformed
        self.frames = frames
        self.episodes = EpisodeRunner(sampler, policy.chat, policy.layout, frames.policy, config)

    def segment(self, tasks: Sequence[Task], temperature: float, seed: int) -> Iterator[Trajectory]:
        """Yield trajectories in task order; all episodes are run before the first video is tracked."""
        requests = [RolloutRequest(task, -1, 0, seed, temperature) for task in tasks]
        self.episodes.frames = self.frames.policy
        by_id = {trajectory.trajectory_id: trajectory for trajectory in self.episodes.run(requests)}
        yield from self.track([by_id[request.trajectory_id] for request in requests])

    def track(self, finished: Sequence[Trajectory]) -> Iterator[Trajectory]:
        """Yield finished trajectories in their order, each with the masks of every frame where it has a prompt."""
        yield from with_masks(self.policy, finished, self.frames, self._malformed)

    def close(self) -> None:
        self.episodes.sampler.close()


class RunThenTrack:
    """Runs all episodes to their ends and then tracks them, those of one video side by side (`rl.rollout.runner`)."""

    def __init__(self, segmenter: MultiTurnSegmenter):
        self._segmenter = segmenter
        self._ended: list[Trajectory] = []
        self._tracked: Iterator[Trajectory] = iter(())
        self._num_untracked = 0

    @property
    def busy(self) -> bool:
        return self._segmenter.episodes.busy or self._num_untracked > 0

    def begin(self, request: RolloutRequest) -> None:
        self._segmenter.episodes.frames = self._segmenter.frames.policy
        self._segmenter.episodes.begin(request)

    def step(self) -> list[Trajectory]:
        episodes = self._segmenter.episodes
        if not episodes.busy:
            self._num_untracked -= 1
            return [next(self._tracked)]
        self._ended += episodes.step()
        if not episodes.busy:
            self._ended.sort(key=lambda item: (item.task.video.path, item.trajectory_id))
            self._tracked, self._num_untracked = self._segmenter.track(self._ended), len(self._ended)
            self._ended = []
        return []

    def abandon(self) -> None:
        self._segmenter.episodes.abandon()
        self._ended, self._tracked, self._num_untracked = [], iter(()), 0

    def take_stats(self) -> RolloutStats:
        return self._segmenter.episodes.take_stats()
