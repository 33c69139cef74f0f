"""Segment tasks with a checkpoint, in this process or on Ray workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from configs.schema import RunConfig
from env.errors import DataError
from env.frames import FrameCache, FrameCaches
from env.types import Task, Trajectory
from policy.engines.env import set_engine_env
from policy.segmenter import Segmenter
from rl.families import Family, family_of
from rl.rollout.episode_worker import Worker
from rl.rollout.pool import Pool
from rl.rollout.request import RolloutRequest
from rl.rollout.runner import OneByOneRunner, Runner
from rl.runtime.cluster import connect_ray


def frame_views(config: RunConfig) -> dict[bool, FrameCaches]:
    """Return the two ways to show a video, by whether the model is blind: as it is, and as grey frames."""
    frames = FrameCache(blind_zooms=config.eval.blind_zooms)
    return {False: FrameCaches(frames, frames), True: FrameCaches(FrameCache(blind=True), frames)}


class EvalWorker(Worker):
    """A segmenter behind a Ray actor. The option of its work batches says whether the model is blind."""

    def __init__(self, config: RunConfig, checkpoint: str, family: Family):
        super().__init__()
        set_engine_env()  # before torch and the engine are imported
        self._views = frame_views(config)
        self._segmenter = family.segmenter(config, Path(checkpoint), self._views[False])
        self._segmenter_runner = family.runner(self._segmenter)

    def prepare(self, option: bool) -> Runner:
        self._segmenter.frames = self._views[option]
        return self._segmenter_runner


class EvaluationPool:
    """As many workers as `eval.workers` says, or one segmenter in this process.

    The family's entry travels with the workers' arguments, so that only this process looks it up.
    """

    def __init__(self, config: RunConfig, checkpoint: Path):
        self._config = config
        self._segmenter = self._pool = None
        family = family_of(checkpoint, config.policy.kind)
        if config.eval.workers:
            set_engine_env()
            connect_ray(config)
            arguments = (config, str(checkpoint.resolve()), family)
            self._pool = Pool(config, EvalWorker, arguments, config.eval.workers, capacity=None)
        else:
            self._views = frame_views(config)
            self._segmenter = family.segmenter(config, checkpoint, self._views[False])

    def segment(self, tasks: Sequence[Task], is_blind: bool) -> Iterator[Trajectory]:
        """Yield the trajectory of each of `tasks` with its masks, in no fixed order.

        Tasks are segmented in batches of as many as the sampler takes at once, so that an interruption loses little.
        """
        workers = max(1, self._config.eval.workers)
        size = max(1, min(self._config.sampler.max_sequences, -(-len(tasks) // workers)))
        batches = [tasks[at : at + size] for at in range(0, len(tasks), size)]
        temperature, seed = self._config.eval.temperature, self._config.seed
        if self._pool is not None:
            requests = [[RolloutRequest(task, -1, 0, seed, temperature) for task in batch] for batch in batches]
            yield from self._pool.run(requests, is_blind)
        elif self._segmenter is not None:
            self._segmenter.frames = self._views[is_blind]
            for batch in batches:
                yield from segment_each(self._segmenter, batch, temperature, seed)

    def close(self) -> None:
        for part in (self._segmenter, self._pool):
            if part is not None:
                part.close()


def segment_each(segmenter: Segmenter, tasks: Sequence[Task], temperature: float, seed: int) -> Iterator[Trajectory]:
    """Yield the trajectory of each task in order; one whose data cannot be read has failed, and the others go on.

    Args:
        segmenter: A model of any family, which may segment the tasks side by side.
        tasks: What to segment.
        temperature: Of sampling.
        seed: Of the run.
    """
    num_done = 0
    try:
        for trajectory in segmenter.segment(tasks, temperature, seed):
            yield trajectory
            num_done += 1
    except DataError:
        runner = OneByOneRunner(segmenter)
        for task in tasks[num_done:]:
            runner.begin(RolloutRequest(task, -1, 0, seed, temperature))
            yield from runner.step()
