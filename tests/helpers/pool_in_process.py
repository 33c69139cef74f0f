"""The pool of rollout workers without Ray: one Hugging Face engine in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from configs.schema import RunConfig
from env.frames import FrameCache
from env.types import Trajectory
from policy.engines import build_sampler
from policy.vlm.load import load_chat
from rl.rollout.episode_runner import EpisodeRunner
from rl.rollout.episode_worker import WorkerStats
from rl.rollout.failures import Failure
from rl.rollout.request import RolloutRequest


class PowerCut(Exception):
    """The end of a run in the middle of a rollout."""


class PoolInProcess:
    """The workers' pool without Ray. `calls` counts its rollouts; the one of number `cut_at` stops half-way."""

    failures: ClassVar[Counter[Failure]] = Counter()
    calls = 0
    cut_at: int | None = None
    finished: list[str]

    def __init__(self, config: RunConfig, model_dir: Path):
        chat, layout = load_chat(model_dir)
        self.sampler = build_sampler(config.sampler, model_dir, config.env.max_context_tokens, config.seed)
        self.rollout = EpisodeRunner(self.sampler, chat, layout, FrameCache(), config.env)
        PoolInProcess.calls, PoolInProcess.finished = 0, []

    def publish(self, weights: Mapping, version: int) -> None:
        self.sampler.load_weights(weights, version)

    def run(self, requests: Sequence[RolloutRequest]) -> Iterator[Trajectory]:
        PoolInProcess.calls += 1
        for done, trajectory in enumerate(self.rollout.run(requests)):
            if PoolInProcess.calls == self.cut_at and done:
                raise PowerCut
            PoolInProcess.finished.append(trajectory.trajectory_id)
            yield trajectory

    def take_stats(self) -> dict[int, WorkerStats]:
        return {}

    def close(self) -> None:
        self.sampler.close()
