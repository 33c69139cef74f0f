"""GRPO on Ray: `ray job submit -- python -m rl.grpo --config NAME`, or plain `python -m rl.grpo` (starts a local Ray).

`train` is the whole algorithm: every step is rollout, score and learn, record.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from configs.load import ConfigError, add_config_arguments, config_from_args, save_config
from configs.schema import RunConfig
from cot_data.datasets import held_out_tasks
from cot_data.datasets.mixture import Mixture
from cot_data.datasets.training_sources import load_source, training_sources
from env.errors import command
from env.store import TrajectoryStore
from env.types import StopReason
from policy.videoseg.model import SegPolicy
from rl.evaluation.validation import held_out_metrics
from rl.families import family_of
from rl.learner.advantage import assign_advantages
from rl.learner.data_parallel import with_ranks
from rl.learner.learner import LocalLearner, score_without_update
from rl.rollout.metrics import WorkerGauges, trajectory_metrics, worker_metrics
from rl.rollout.prefetch import RolloutPrefetcher
from rl.rollout.rollout_worker import RolloutPool
from rl.rollout.task_stream import TaskStream
from rl.runtime.archive import set_aside
from rl.runtime.checkpoint import latest_checkpoint, load_state, save_checkpoint
from rl.runtime.cluster import check_job_paths, connect_ray
from rl.runtime.frame_caches import learner_frames
from rl.runtime.journal import Journal, Timer
from rl.runtime.threads import SharedCores

WRITTEN = ("initial", "config.yaml", "metrics.jsonl", "events.*", "trajectories", "pending", "checkpoints")


def train(config: RunConfig, resume: bool = False) -> None:
    """Run GRPO until `grpo.steps`; with `resume`, from the newest checkpoint of `run_dir`."""
    check_job_paths(config)
    run_dir = Path(config.run_dir)
    initial = run_dir / "initial" if resume else Path(config.policy.path)
    family = family_of(initial, config.policy.kind)
    state = load_state(latest_checkpoint(run_dir)) if resume else None
    sources = training_sources(config.data)
    tasks = Mixture([load_source(source) for source in sources], [source.weight for source in sources])
    held_out = held_out_tasks(config) if config.grpo.eval_every else []
    policy = family.load(initial, config.policy)
    if not isinstance(policy, SegPolicy):
        raise ConfigError(f"policy.path: {initial} is of a family without turns; GRPO trains multi-turn policies")
    frames = learner_frames(config)
    local = LocalLearner(policy, config, frames)
    assign = partial(assign_advantages, config=config)
    stream, first_step, cursor = TaskStream(tasks, config.grpo.tasks_per_step, config.seed), 0, 0
    if state is not None:
        first_step = state["step"]
        cursor = state.get("cursor", first_step * config.grpo.tasks_per_step)  # written by an older version
    else:
        set_aside(run_dir, WRITTEN, initial)
        family.save(policy, run_dir / "initial")  # the KL reference, and what workers build from
        save_config(config, run_dir / "config.yaml")

    connect_ray(config, has_gpu=policy.device.type == "cuda")
    learner = with_ranks(local, config, run_dir / "initial")
    if state is not None:
        learner.load_state(state, latest_checkpoint(run_dir))
    pool = RolloutPool(config, run_dir / "initial" / "vlm")
    journal, gauges = Journal(run_dir), WorkerGauges()
    cores = SharedCores(config.grpo.workers if policy.device.type == "cpu" else 0)
    store = TrajectoryStore(run_dir / "trajectories")
    journal.drop_from(first_step)
    store.drop_from(first_step)

    rescore = partial(score_without_update, learner, assign=assign)
    rollouts = RolloutPrefetcher(config, pool, run_dir / "pending", stream, cursor, rescore)
    for step in range(first_step, config.grpo.steps):
        timer = Timer()

        # 1. ROLLOUT. The workers get the current weights, so that their episodes are on-policy. With `rollout_ahead`
        # they begin the next step at once, with the same weights. With `grpo.max_oversampling` groups are scored here
        # already, and more are sampled in place of those with equal rewards.
        pool.publish(learner.weight_update(), version=step)
        step_groups = rollouts.take(step)
        timer.mark("rollout")

        # 2. SCORE and LEARN. One forward pass over a group gives old log-probs, masks and rewards; the loss is
        # backpropagated through the same pass. A return has a meaning only relative to its group.
        metrics = learner.learn(step_groups.trained, assign, pause=lambda: cores.make_room(rollouts.playing))
        timer.mark("learn")

        # 3. EVALUATE the current weights on held-out tasks, every `eval_every` steps.
        if config.grpo.eval_every and (step + 1) % config.grpo.eval_every == 0:
            rollouts.wait()
            pool.publish(learner.weight_update(), version=step + 1)
            metrics |= held_out_metrics(pool, policy, held_out, config, frames)
            timer.mark("eval")

        # 4. RECORD. The logged trajectories are the stored ones, so `env.replay` can score them again.
        everything = [trajectory for group in step_groups.sampled for trajectory in group]
        failed = sum(trajectory.stop_reason is StopReason.ERROR for trajectory in everything)
        metrics |= trajectory_metrics(step_groups.valid) | timer.seconds
        oversampled = len(step_groups.sampled) - config.grpo.tasks_per_step
        metrics |= {"rollout/failed": float(failed), "rollout/oversampled": float(oversampled)}
        metrics |= worker_metrics(stats := pool.take_stats(), pool.failures)
        gauges.show(stats)
        store.append(everything)
        journal.log(step, metrics)
        if (step + 1) % config.grpo.save_every == 0 or step + 1 == config.grpo.steps:
            save = partial(family.save, policy)
            save_checkpoint(run_dir, step + 1, save, learner.state() | {"cursor": step_groups.cursor})
    journal.close()
    pool.close()
    learner.close()


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add_config_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of run_dir")
    args = parser.parse_args()
    train(config_from_args(args), args.resume)


if __name__ == "__main__":
    main()
