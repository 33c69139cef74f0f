"""EpisodeRunner workers: a sampler behind an actor, which acts with the weights that a step asks for.

Weights travel with the work: every share names the version it is to be played with, and where to fetch it from.
A worker that was just born, or reborn, can therefore never act on old weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.schema import RunConfig
from env.types import Trajectory
from policy.engines.env import set_engine_env
from rl.rollout.dispatcher import Capacity
from rl.rollout.episode_worker import Worker
from rl.rollout.pool import Pool
from rl.rollout.request import RolloutRequest
from rl.rollout.weight_transport import check_transport, fetch, offer

if TYPE_CHECKING:
    from policy.engines.weight_update import WeightUpdate
    from rl.rollout.episode_runner import EpisodeRunner


class RolloutWorker(Worker):
    """One sampler. Its option is (version, [reference to the weights]); nested, so that Ray does not fetch them."""

    def __init__(self, config: RunConfig, model_dir: str):
        super().__init__()
        set_engine_env()
        # Heavy imports wait until the engine's environment variables are set.
        from policy.engines import build_sampler
        from policy.vlm.load import load_chat
        from rl.rollout.episode_runner import EpisodeRunner
        from rl.runtime.frame_caches import policy_frames

        chat, layout = load_chat(Path(model_dir))
        self._transfer_seconds = config.sampler.transfer_seconds
        self._sampler = build_sampler(config.sampler, Path(model_dir), config.env.max_context_tokens, config.seed)
        self._player = EpisodeRunner(self._sampler, chat, layout, policy_frames(config), config.env)

    def prepare(self, option: tuple[int, list[Any]]) -> EpisodeRunner:
        version, references = option
        if self._sampler.version != version:
            self._sampler.load_weights(fetch(references[0], self._transfer_seconds), version)
        return self._player


class RolloutPool(Pool):
    """EpisodeRunner workers as `grpo` wants them."""

    def __init__(self, config: RunConfig, model_dir: Path):
        check_transport(config.grpo.weight_transport)
        # The engine must find the next conversation as soon as one ends.
        capacity = Capacity(running=config.sampler.max_sequences, queued=config.grpo.group_size)
        arguments = (config, str(model_dir.resolve()))
        super().__init__(config, RolloutWorker, arguments, config.grpo.workers, capacity)
        self._published: tuple[int, list[Any]] = (-1, [])

    def publish(self, moved: WeightUpdate, version: int) -> None:
        """Make these weights, and the others as they were at first, those that the next rollout is played with."""
        self._published = (version, [offer(moved, self.config.grpo.weight_transport, self.config.sampler.dtype)])

    def run(self, requests: Sequence[RolloutRequest]) -> Iterator[Trajectory]:
        """Trajectories of `assignments`, played with exactly the weights that were published last."""
        groups = [list(group) for _, group in groupby(requests, key=lambda item: item.task.task_id)]
        yield from self.play(groups, self._published, self.config.grpo.max_rollout_seconds)
