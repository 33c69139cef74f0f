"""Rollout workers as Ray actors, and the pool that keeps them busy, up to date and replaced when they die.

Weights travel by pull: the learner publishes a version on the board, and a worker that is asked to roll out with
another version than its own fetches it first. So a worker that was just born, or reborn, can never act on old weights.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, WorkerCrashedError

from configs.load import ConfigError
from configs.schema import RunConfig
from env.types import StopReason, Trajectory
from policy.engine_env import set_engine_env
from rl.rollout import Assignment


@ray.remote(num_cpus=0)
class WeightBoard:
    """Holds a reference to the newest weights."""

    def __init__(self) -> None:
        self._newest: tuple[int, list[Any]] = (-1, [])

    def publish(self, version: int, refs: list[Any]) -> None:
        self._newest = (version, refs)

    def newest(self) -> tuple[int, list[Any]]:
        """The version and a list with one object reference (nested, so that Ray does not fetch it here)."""
        return self._newest


class RolloutWorker:
    """One sampler behind an actor. Streams trajectories as they finish."""

    def __init__(self, config: RunConfig, model_dir: str, board: Any):
        set_engine_env()
        # Heavy imports wait until the engine's environment variables are set.
        from env.frames import FrameCache
        from policy.build import load_chat
        from policy.engines import build_sampler
        from rl.rollout import Rollout

        chat, layout = load_chat(Path(model_dir))
        sampler = build_sampler(
            config.sampler,
            Path(model_dir),
            config.env.max_context_tokens,
            config.seed,
            keep_encoder_cache=config.policy.freeze_vision or config.policy.lora_rank > 0,
        )
        self._board = board
        self._rollout = Rollout(sampler, chat, layout, FrameCache(blind=config.env.blind), config.env)
        self._pull()

    def _pull(self) -> None:
        version, refs = ray.get(self._board.newest.remote())
        if version != self._rollout.sampler.version and refs:
            self._rollout.sampler.load_weights(ray.get(refs[0]), version)

    def pid(self) -> int:
        return os.getpid()

    def run(self, assignments: Sequence[Assignment], version: int) -> Iterator[Trajectory]:
        """Play `assignments` with exactly the weights `version`."""
        if self._rollout.sampler.version != version:
            self._pull()
        if self._rollout.sampler.version != version:
            raise RuntimeError(f"asked for weights {version}, the board has {self._rollout.sampler.version}")
        yield from self._rollout.run(assignments)


@dataclass
class _Call:
    """One streaming call: what it still owes, and how often its assignments were tried."""

    worker: int
    owed: dict[str, Assignment]
    attempt: int


class Pool:
    """Actors that play assignments. One that dies is replaced, and what it owed is tried again."""

    def __init__(self, config: RunConfig, actor: type, arguments: Sequence[Any], num_workers: int):
        self.config = config
        self.num_deaths = 0
        self._actor = actor
        self._arguments = arguments
        self._workers = [self._start() for _ in range(num_workers)]

    def _start(self) -> Any:
        actor = ray.remote(num_cpus=1, num_gpus=self.config.sampler.gpus_per_worker, max_restarts=0)(self._actor)
        return actor.remote(*self._arguments)

    def pids(self) -> list[int]:
        """Process ids of the workers; waits until their engines are loaded."""
        return ray.get([worker.pid.remote() for worker in self._workers])

    def play(self, shares: Iterable[Sequence[Assignment]], option: Any) -> Iterator[Trajectory]:
        """Each assignment's trajectory exactly once, as they finish. After `max_attempts` deaths they end as errors.

        A worker that has finished a share is given the next one; `option` is handed on to it.
        """
        waiting = deque({item.trajectory_id: item for item in share} for share in shares if share)
        calls: dict[Any, _Call] = {}  # by the stream of their results

        def begin(worker: int, share: dict[str, Assignment], attempt: int = 1) -> None:
            run = self._workers[worker].run.options(num_returns="streaming")
            calls[run.remote(list(share.values()), option)] = _Call(worker, share, attempt)

        for worker in range(min(len(self._workers), len(waiting))):
            begin(worker, waiting.popleft())
        while calls:
            stream: Any = ray.wait(list(calls), num_returns=1)[0][0]
            call = calls[stream]
            try:
                trajectory: Any = ray.get(next(stream))
            except (StopIteration, RayActorError, WorkerCrashedError) as end:
                del calls[stream]
                if not isinstance(end, StopIteration):
                    self.num_deaths += 1
                    self._workers[call.worker] = self._start()
                    if call.owed and call.attempt < self.config.grpo.max_attempts:
                        begin(call.worker, call.owed, call.attempt + 1)
                        continue
                    yield from (_lost(item, end) for item in call.owed.values())
                if waiting:
                    begin(call.worker, waiting.popleft())
                continue
            if call.owed.pop(trajectory.trajectory_id, None) is not None:
                yield trajectory

    def close(self) -> None:
        for worker in self._workers:
            ray.kill(worker)


class RolloutPool(Pool):
    """Splits the assignments of a step over rollout workers, which act with the weights that are asked for."""

    def __init__(self, config: RunConfig, model_dir: Path):
        self._board: Any = WeightBoard.remote()  # pyright: ignore[reportFunctionMemberAccess]
        self._weights_ref: Any = None  # keeps the published object alive
        arguments = (config, str(model_dir.resolve()), self._board)
        super().__init__(config, RolloutWorker, arguments, config.grpo.workers)

    def publish(self, weights: dict[str, Any], version: int) -> None:
        """Make `weights` the version that the next rollout must use."""
        self._weights_ref = ray.put({name: tensor.cpu() for name, tensor in weights.items()})
        ray.get(self._board.publish.remote(version, [self._weights_ref]))

    def run(self, assignments: Sequence[Assignment], version: int) -> Iterator[Trajectory]:
        """Trajectories of `assignments`, played with exactly the weights `version`."""
        num_workers = len(self._workers)
        yield from self.play([assignments[worker::num_workers] for worker in range(num_workers)], version)


def _lost(assignment: Assignment, error: Exception) -> Trajectory:
    reason = f"its rollout worker died in every attempt: {error}"
    task, step, sibling = assignment.task, assignment.step, assignment.sibling
    return Trajectory(assignment.trajectory_id, task, step, sibling, stop_reason=StopReason.ERROR, error=reason)


def check_job_paths(config: RunConfig) -> None:
    """ConfigError for a relative path in a job that runs in Ray's copy of the working folder, which Ray deletes."""
    if "working_dir_files" not in Path.cwd().parts:
        return
    paths = {"run_dir": config.run_dir, "data.train_root": config.data.train_root, "policy.path": config.policy.path}
    paths |= {f"data.train.{i}.root": source.root for i, source in enumerate(config.data.train)}
    for key, path in paths.items():
        if path and not Path(path).is_absolute():
            raise ConfigError(
                f"{key}: {path!r} is relative, but this job runs in a copy of the folder that Ray deletes afterwards; "
                "give an absolute path that all nodes can reach"
            )


def connect_ray(config: RunConfig) -> None:
    """Join the cluster of `ray job submit` (or RAY_ADDRESS), else start a local Ray sized for this run."""
    if ray.is_initialized():
        return
    quiet = {"logging_level": "warning", "log_to_driver": False}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(address="auto", **quiet)
    else:
        # The object store holds weights and trajectories, both small; Ray would take 30 % of the memory.
        ray.init(
            num_cpus=max(os.cpu_count() or 1, config.grpo.workers + 1, config.eval.workers),
            include_dashboard=False,
            object_store_memory=512 << 20,
            **quiet,
        )
