"""GRPO on Ray: `python -m rl.grpo --config NAME` starts a local one; docs/train.md submits it as a job to a cluster.

`train` is the whole algorithm. Every step is a rollout, the learner's score and update, and a record.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from configs.load import ConfigError, add_config_arguments, check_command_line, config_from_args

if __name__ == "__main__":
    check_command_line()  # a mistake ends the command here, before the imports below load torch

from configs.schema import RunConfig
from cot_data.datasets import held_out_tasks
from cot_data.datasets.mixture import Mixture
from cot_data.datasets.training_sources import load_source, training_sources
from env.errors import command
from env.files import remove_folder, replace_folder
from env.prompts import find_prompt
from env.store import TrajectoryStore
from env.tools import enabled_tools
from policy.videoseg.model import SegPolicy
from rl.evaluation.validation import held_out_metrics
from rl.families import Family, as_trained, family_of, require_checkpoint
from rl.learner.advantage import assign_advantages
from rl.learner.data_parallel import with_ranks
from rl.learner.learner import LocalLearner, score_without_update
from rl.rollout.dynamic_sampling import StepGroups
from rl.rollout.metrics import WorkerGauges, trajectory_metrics, worker_metrics
from rl.rollout.prefetch import RolloutPrefetcher
from rl.rollout.rollout_worker import RolloutPool
from rl.rollout.task_stream import TaskStream
from rl.runtime.archive import set_aside
from rl.runtime.checkpoint import complete_checkpoints, load_state, save_checkpoint
from rl.runtime.cluster import check_job_paths, connect_ray
from rl.runtime.data_identity import Identity, check_trained_tasks, data_identity
from rl.runtime.frame_caches import learner_frames
from rl.runtime.journal import Journal, Timer
from rl.runtime.preflight import prepare_machine
from rl.runtime.resume import check_resume, record_resume, started_with, write_start
from rl.runtime.resume_rules import GRPO, Change
from rl.runtime.threads import SharedCores

WRITTEN = (
    "config.yaml",  # first: without it there is nothing to resume from
    "initial",
    "data.json",
    "changes.jsonl",
    "metrics.jsonl",
    "events.*",
    "trajectories",
    "pending",
    "checkpoints",
)


def train(config: RunConfig, resume: bool = False) -> None:
    """Run GRPO until `grpo.steps`; with `resume`, from the newest checkpoint of `run_dir`."""
    check_job_paths(config)
    run_dir = Path(config.run_dir)
    initial = _start(config, resume)
    family = family_of(initial, config.policy.kind)
    tasks, data = _training_data(config)
    found = check_resume(run_dir, config, GRPO, data) if resume else []
    newest = next(reversed(complete_checkpoints(run_dir)), None) if resume else None  # None: killed before the first
    state = load_state(newest) if newest else None
    first_step, cursor = _position(state, config)
    stream = TaskStream(tasks, config.grpo.tasks_per_step, config.seed)
    held_out = held_out_tasks(config) if config.grpo.eval_every else []
    policy, config = _load_policy(config, initial, family)
    frames = learner_frames(config)
    local = LocalLearner(policy, config, frames)
    if resume:
        _continue_run_dir(config, tasks, data, found, first_step)
    else:
        config = _begin_run_dir(config, policy, family, data)

    connect_ray(config, has_gpu=policy.device.type == "cuda")
    learner = with_ranks(local, config, run_dir / "initial")
    if state is not None and newest is not None:
        learner.load_state(state, newest)
    pool = RolloutPool(config, run_dir / "initial" / "vlm")
    recorder = _Recorder(config, first_step)
    write_policy = partial(family.save, policy)
    cores = SharedCores(config.grpo.workers if policy.device.type == "cpu" else 0)
    assign = partial(assign_advantages, config=config)
    score_groups = partial(score_without_update, learner, assign=assign)
    rollouts = RolloutPrefetcher(config, pool, stream, cursor, score_groups)
    for step in range(first_step, config.grpo.steps):
        timer = Timer()

        # 1. ROLLOUT. The workers get the current weights, so their episodes are on-policy. With `rollout_ahead` they
        # start the next step at once, with the same weights. With `grpo.max_oversampling` groups are scored here
        # already, and groups with equal rewards are replaced.
        pool.publish(learner.weight_update(), version=step)
        step_groups = rollouts.take(step)
        timer.mark("rollout")

        # 2. SCORE and UPDATE. One forward pass over a group gives old log-probs, masks and rewards; the loss is
        # back-propagated through the same pass. A reward only counts relative to those of its group.
        metrics = learner.learn(step_groups.trained, assign, pause=lambda: cores.set_threads(rollouts.is_running))
        step_groups = step_groups.after_learning(config.grpo)  # without what could not be read
        timer.mark("learn")

        # 3. EVALUATE the current weights on held-out tasks, every `eval_every` steps.
        if config.grpo.eval_every and (step + 1) % config.grpo.eval_every == 0:
            rollouts.wait()
            pool.publish(learner.weight_update(), version=step + 1)
            metrics |= held_out_metrics(pool, policy, held_out, config, frames)
            timer.mark("eval")

        # 4. RECORD metrics and trajectories, and save a checkpoint every `save_every` steps.
        recorder.record(step, step_groups, pool, metrics | timer.seconds)
        if (step + 1) % config.grpo.save_every == 0 or step + 1 == config.grpo.steps:
            save_checkpoint(run_dir, step + 1, write_policy, learner.state() | {"cursor": step_groups.cursor})
    pool.close()
    learner.close()


def _start(config: RunConfig, resume: bool) -> Path:
    """Return the folder of the policy that the run starts from. CheckpointError where it, or the run, is missing."""
    if resume:
        started_with(Path(config.run_dir))
        return Path(config.run_dir) / "initial"
    require_checkpoint(config.policy.path, "policy.path")
    return Path(config.policy.path)


def _load_policy(config: RunConfig, initial: Path, family: Family) -> tuple[SegPolicy, RunConfig]:
    """Return the policy, and the config with the policy's own prompt."""
    policy, config = family.load(initial, config.policy), as_trained(config, initial)
    if not isinstance(policy, SegPolicy):
        raise ConfigError(f"policy.path: {initial} is of a family without turns; GRPO trains multi-turn policies")
    policy.prompt = find_prompt(config.env.prompt)
    return policy, config


def _position(state: dict[str, Any] | None, config: RunConfig) -> tuple[int, int]:
    """Return the first step to run and the task stream's position, from a saved state if there is one."""
    if state is None:
        return 0, 0
    step = state["step"]
    return step, state.get("cursor", step * config.grpo.tasks_per_step)  # older versions saved no cursor


def _training_data(config: RunConfig) -> tuple[Mixture, Identity]:
    """Open the data sets of the run; return them with what identifies them."""
    sources = training_sources(config.data)
    parts = [load_source(source) for source in sources]
    return Mixture(parts, [source.weight for source in sources]), data_identity(sources, parts)


def _begin_run_dir(config: RunConfig, policy: SegPolicy, family: Family, data: Identity) -> RunConfig:
    """Move what an earlier run wrote aside, and write the initial policy, the config and the data's identity.

    Returns:
        The config that was written: its prompt is the copy that the run keeps.
    """
    run_dir = Path(config.run_dir)
    initial = run_dir / "initial"  # the KL reference; workers and ranks load it too
    set_aside(run_dir, WRITTEN, Path(config.policy.path))
    with replace_folder(initial) as draft:
        family.save(policy, draft)
    config = as_trained(config, initial)
    write_start(run_dir, config, data)
    return config


def _continue_run_dir(
    config: RunConfig, tasks: Mixture, data: Identity, found: Sequence[Change], first_step: int
) -> None:
    """Record what has changed. Rollouts of later steps, which were sampled without the changes, are dropped."""
    run_dir = Path(config.run_dir)
    if found:
        check_trained_tasks(TrajectoryStore(run_dir / "trajectories"), tasks.parts)
        if (run_dir / "pending").is_dir():
            remove_folder(run_dir / "pending")
    record_resume(run_dir, config, data, found, f"step {first_step}")


class _Recorder:
    """Writes metrics and trajectories of each step to the run's folder, and shows workers' metrics in Ray."""

    def __init__(self, config: RunConfig, first_step: int):
        """Open the files; records of `first_step` and later, left by an interrupted run, are removed."""
        run_dir = Path(config.run_dir)
        self._tasks_per_step = config.grpo.tasks_per_step
        self._tools = enabled_tools(config.env)
        self._journal, self._gauges = Journal(run_dir), WorkerGauges()
        self._store = TrajectoryStore(run_dir / "trajectories")
        self._journal.drop_from(first_step)
        self._store.drop_from(first_step)

    def record(self, step: int, groups: StepGroups, pool: RolloutPool, metrics: dict[str, float]) -> None:
        """Write one step. `env.replay` can score the stored trajectories again.

        Args:
            step: Number of the step.
            groups: The step's groups, scored.
            pool: Workers that ran them.
            metrics: Of the learner and the evaluation, and seconds.
        """
        sampled = [trajectory for group in groups.sampled for trajectory in group]
        failed = sum(trajectory.has_failed for trajectory in sampled)
        stats = pool.take_stats()
        self._gauges.show(stats)
        self._store.append(sampled)
        self._journal.log(
            step,
            metrics
            | trajectory_metrics(groups.valid, self._tools)
            | {"rollout/failed": float(failed), "rollout/unreadable_tasks": float(len(groups.unreadable))}
            | {"rollout/oversampled": float(len(groups.sampled) - self._tasks_per_step)}
            | worker_metrics(stats, pool.failures),
        )


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add_config_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint of run_dir")
    args = parser.parse_args()
    config = config_from_args(args)
    with prepare_machine(Path(config.run_dir), uses_ray=True, resume=args.resume):
        train(config, args.resume)


if __name__ == "__main__":
    main()
