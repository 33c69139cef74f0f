"""A checkpoint that segments: the policy and its sampler, in this process or behind Ray actors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.schema import PolicyConfig, RunConfig
from env.types import Trajectory
from policy.engines.env import set_engine_env
from rl.rollout.episode_worker import Worker
from rl.rollout.pool import Pool
from rl.rollout.request import RolloutRequest
from rl.runtime.cluster import connect_ray

if TYPE_CHECKING:
    from rl.rollout.episode_runner import EpisodeRunner


class EvalWorker(Worker):
    """One policy and one sampler, and two ways to show them a video: as it is, and grey. The option says `is_blind`.

    A share is played to its end and then tracked, videos side by side; its trajectories come back with masks.
    """

    def __init__(self, config: RunConfig, checkpoint: str):
        super().__init__()
        set_engine_env()
        # Heavy imports wait until the engine's environment variables are set.
        from env.frames import FrameCache, FrameCaches
        from policy.engines import build_sampler
        from policy.videoseg.checkpoint import load_policy
        from rl.rollout.segmenter import Segmenter

        folder = Path(checkpoint)
        # What else there is to say of a policy concerns its training.
        policy = load_policy(folder, PolicyConfig(sam=config.policy.sam, compute_dtype=config.policy.compute_dtype))
        self._sampler = build_sampler(config.sampler, folder / "vlm", config.env.max_context_tokens, config.seed)
        frames = FrameCache(blind_zooms=config.eval.blind_zooms)
        shown = {False: frames, True: FrameCache(blind=True)}
        self._segmenters = {
            is_blind: Segmenter(policy, self._sampler, FrameCaches(view, frames), config.env)
            for is_blind, view in shown.items()
        }
        self._ended: list[Trajectory] = []
        self._tracked: Iterator[Trajectory] = iter(())

    def prepare(self, option: bool) -> EpisodeRunner:
        self._segmenter = self._segmenters[option]
        self._ended, self._tracked = [], iter(())
        return self._segmenter.rollout

    @property
    def busy(self) -> bool:
        return self._live > 0

    def advance(self) -> list[Trajectory]:
        if self._segmenter.rollout.busy:
            self._ended += self._segmenter.rollout.step()
            if not self._segmenter.rollout.busy:
                self._ended.sort(key=lambda item: (item.task.video.path, item.trajectory_id))
                self._tracked = self._segmenter.track(self._ended)
                self._ended = []
            return []
        return [next(self._tracked)]

    def run(self, requests: Sequence[RolloutRequest], is_blind: bool) -> Iterator[Trajectory]:
        """Play and segment `assignments`; their trajectories in order, with masks."""
        yield from self._segmenters[is_blind].run(requests)

    def close(self) -> None:
        self._sampler.close()


class EvaluationPool:
    """As many workers as `eval.workers` says, or one in this process."""

    def __init__(self, config: RunConfig, checkpoint: Path):
        self._config = config
        self._local = self._pool = None
        if config.eval.workers:
            connect_ray(config)
            arguments = (config, str(checkpoint.resolve()))
            self._pool = Pool(config, EvalWorker, arguments, config.eval.workers, capacity=None)
        else:
            self._local = EvalWorker(config, str(checkpoint))

    def segment(self, requests: Sequence[RolloutRequest], is_blind: bool) -> Iterator[Trajectory]:
        """Trajectories of `assignments`, share by share, in no fixed order.

        A share is what the sampler takes at once: small enough that an interruption loses little.
        """
        workers = max(1, self._config.eval.workers)
        size = max(1, min(self._config.sampler.max_sequences, -(-len(requests) // workers)))
        shares = [requests[at : at + size] for at in range(0, len(requests), size)]
        if self._pool is not None:
            yield from self._pool.run(shares, is_blind)
        elif self._local is not None:
            for share in shares:
                yield from self._local.run(share, is_blind)

    def close(self) -> None:
        for part in (self._local, self._pool):
            if part is not None:
                part.close()
