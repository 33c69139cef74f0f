"""Measure the saving when scoring and training use the same forward pass.

    python tests/bench/score_pass.py [--tasks 4] [--group 8] [--repeats 5]

Both ways take one GRPO step of the tiny policy on the same trajectories, in one run: `learn` alone, where a group fits
a micro-batch, and `fill_logprobs_and_masks` of all groups followed by `learn`, as two separate passes. Measures medians
of this process's processor seconds. The expected ratio is 1.25: a backward pass costs about two forward passes and the
KL reference one, so one of five is saved. Prints a Markdown row for LOG.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from configs.load import load_config
from cot_data.datasets import load_tasks
from cot_data.moving_shapes.generate import write_moving_shapes
from cot_data.traces.dialogue import to_trajectory
from cot_data.traces.write import write_trace
from env.frames import FrameCache, FrameCaches
from env.types import Action, Task, Trajectory
from policy.videoseg.checkpoint import build_small
from policy.videoseg.model import SegPolicy
from rl.learner.learner import LocalLearner


def rolled_out(policy: SegPolicy, task: Task, sibling: int) -> Trajectory:
    """Build a trajectory from a gold trace, as if it had been sampled."""
    config = load_config("tiny").env
    item = to_trajectory(write_trace(task, config, np.random.default_rng(sibling), "brief"), task, config)
    for turn in item.turns:
        ids = tuple(policy.chat.action_ids(turn.action.text))
        turn.action = Action(turn.action.text, ids, (-1.0,) * len(ids), weights_version=0)
    return replace(item, trajectory_id=f"0/{task.task_id}/{sibling}", sibling=sibling)


def assign_advantages(group: Sequence[Trajectory]) -> None:
    for number, trajectory in enumerate(group):
        trajectory.advantage = float(number % 2) - 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    config = load_config("tiny")
    with tempfile.TemporaryDirectory() as folder:
        write_moving_shapes(Path(folder) / "data", args.tasks, seed=0, processes=1)
        tasks = load_tasks("mevis", Path(folder) / "data")[:: max(1, args.tasks // 2)][: args.tasks]
        texts = [turn for task in tasks for turn in write_trace(task, config.env, np.random.default_rng(0)).gpt_turns]
        policy = build_small(config.policy, texts, seed=0)
        groups = [[rolled_out(policy, task, sibling) for sibling in range(args.group)] for task in tasks]
        learner = LocalLearner(policy, config, FrameCaches(FrameCache(), FrameCache()))
        everything = [item for group in groups for item in group]
        seconds: dict[str, list[float]] = {"one forward": [], "two forwards": []}
        for _ in range(args.repeats + 1):
            for name, spent in seconds.items():
                begin = time.process_time()
                if name == "two forwards":
                    learner.fill_logprobs_and_masks(everything)
                learner.learn(groups, assign_advantages)
                spent.append(time.process_time() - begin)
    one, two = (statistics.median(spent[1:]) for spent in seconds.values())  # the first of each also reads the frames
    print("| tasks x group | one forward, CPU-s | two forwards, CPU-s | ratio |\n|---|---|---|---|")
    print(f"| {args.tasks} x {args.group} | {one:.2f} | {two:.2f} | {two / one:.2f} |")


if __name__ == "__main__":
    main()
