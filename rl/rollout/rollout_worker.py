"""Rollout workers: Ray actors with one sampling engine each, which generate with the weights of the current step.

Weights travel with the work. Every batch of requests names the version of the weights to use and where to fetch it, so
a worker that was just started or replaced cannot generate with old weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.schema import RunConfig
from env.types import Trajectory
from policy.engines.env import set_engine_env
from rl.rollout.dispatcher import Capacity
from rl.rollout.episode_worker import Worker, WorkerStats
from rl.rollout.failures import Failure
from rl.rollout.pool import Pool
from rl.rollout.request import RolloutRequest
from rl.rollout.weight_transport import check_transport, fetch, offer

if TYPE_CHECKING:
    from policy.engines.weight_update import WeightUpdate
    from rl.rollout.episode_runner import EpisodeRunner


class RolloutWorker(Worker):
    """A worker with one sampling engine.

    Its option is `(version, [reference to the weights])`. The reference is inside a list so that Ray does not fetch the
    weights before the call: a worker that has them already needs no copy.
    """

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
        self._episodes = EpisodeRunner(self._sampler, chat, layout, policy_frames(config), config.env)

    def prepare(self, option: tuple[int, list[Any]]) -> EpisodeRunner:
        """Load the weights that `option` names, unless the engine has them, and return the episode runner."""
        version, references = option
        if self._sampler.version != version:
            self._sampler.load_weights(fetch(references[0], self._transfer_seconds), version)
        return self._episodes


class RolloutPool:
    """The `grpo.workers` rollout workers of a training run, and the weights that they generate with."""

    def __init__(self, config: RunConfig, model_dir: Path):
        """Start the workers; each loads its engine from `model_dir`. ConfigError if a transport or GPU is missing."""
        check_transport(config.grpo.weight_transport)
        # One further group is queued, so that the engine finds the next episode as soon as one ends.
        capacity = Capacity(running=config.sampler.max_sequences, queued=config.grpo.group_size)
        arguments = (config, str(model_dir.resolve()))
        self.config = config
        self._pool = Pool(config, RolloutWorker, arguments, config.grpo.workers, capacity)
        self._published: tuple[int, list[Any]] = (-1, [])

    @property
    def failures(self) -> Counter[Failure]:
        """How many workers have failed since the start, by the kind of failure."""
        return self._pool.failures

    def publish(self, weights: WeightUpdate, version: int) -> None:
        """Set the weights of the next rollout: `weights` where it has an entry, the initial ones otherwise."""
        self._published = (version, [offer(weights, self.config.grpo.weight_transport, self.config.sampler.dtype)])

    def run(self, requests: Sequence[RolloutRequest]) -> Iterator[Trajectory]:
        """Yield the trajectory of each request, in no fixed order, generated with the weights published last."""
        groups = [list(group) for _, group in groupby(requests, key=lambda item: item.task.task_id)]
        yield from self._pool.run(groups, self._published, self.config.grpo.max_rollout_seconds)

    def take_stats(self) -> dict[int, WorkerStats]:
        """Return each worker's sums since the last call."""
        return self._pool.take_stats()

    def close(self) -> None:
        """End the workers and free their places in the cluster."""
        self._pool.close()
