"""Measure a learner of several processes: wall time of a step, and the optimizer's state on rank 0.

    python -m tests.bench.learner_ranks RUN [--config tiny] [--step 10] [--ranks 1 2] [--repeats 3]

Trains the shipped policy, or --policy, on the stored trajectories of one step of a GRPO run (RUN/trajectories); every
rank has one thread. Prints a Markdown table of medians, also relative to the first number of ranks.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from itertools import groupby
from pathlib import Path

import torch

from configs.load import load_config
from configs.schema import RunConfig
from env.frames import FrameCache, FrameCaches
from env.store import TrajectoryStore
from env.types import Trajectory
from policy import SHIPPED
from policy.videoseg.checkpoint import load_policy
from rl.learner.advantage import assign_advantages
from rl.learner.data_parallel import split_groups, with_ranks
from rl.learner.learner import Learner, LocalLearner
from rl.runtime.cluster import connect_ray


def step_seconds(learner: Learner, config: RunConfig, groups: list[list[Trajectory]]) -> float:
    """Return the wall time of one step."""
    started = time.perf_counter()
    learner.learn(groups, partial(assign_advantages, config=config))
    return time.perf_counter() - started


def state_mb(local: LocalLearner) -> float:
    """Return the size of the optimizer's state in this process."""
    tensors = (tensor for state in local.optimizer.local.state.values() for tensor in state.values())
    return sum(tensor.nbytes for tensor in tensors) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description="Wall time of a learner step by number of ranks.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--config", default="tiny")
    parser.add_argument("--policy", type=Path, default=SHIPPED)
    parser.add_argument("--step", type=int, default=10)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    torch.set_num_threads(1)
    everything = [item for item in TrajectoryStore(args.run / "trajectories").read() if item.step == args.step]
    groups = [list(group) for _, group in groupby(everything, key=lambda item: item.task.task_id)]
    connect_ray(load_config(args.config, [f"grpo.learner_ranks={max(args.ranks)}"]))
    print(f"{len(everything)} trajectories in {len(groups)} groups\n")
    print(
        "| ranks | groups per rank | s per step | relative to the first | optimizer's state, rank 0, MB |\n"
        "|---|---|---|---|---|"
    )
    first = 0.0
    for count in args.ranks:
        config = load_config(args.config, [f"grpo.learner_ranks={count}"])
        local = LocalLearner(load_policy(args.policy, config.policy), config, FrameCaches(FrameCache(), FrameCache()))
        learner = with_ranks(local, config, args.policy)
        step_seconds(learner, config, groups)  # caches are filled before the measurement
        seconds = statistics.median(step_seconds(learner, config, groups) for _ in range(args.repeats))
        first = first or seconds
        parts = ", ".join(str(len(part)) for part in split_groups(groups, count))
        print(f"| {count} | {parts} | {seconds:.1f} | {seconds / first:.2f} | {state_mb(local):.1f} |", flush=True)
        learner.close()


if __name__ == "__main__":
    main()
