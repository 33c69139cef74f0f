"""Measure how far one kind of task moves the others when GRPO changes how often a policy zooms.

    python -m tests.bench.choice_kernel --checkpoint policy/tiny --data runs/demo/data/heldout

A small step along the gradient g of one task's choice (the logit of "unclear", which begins a zoom, against all other
tokens) moves another task's choice by their product (the neural tangent kernel). The command prints, per kind of task,
how often the policy zooms, the kernel of the kinds' mean gradients, and their cosines. If a cosine is near 1, all kinds
move together, whatever their rewards are; only the rest of the gradient can separate them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from configs.load import load_config
from configs.schema import EnvConfig
from cot_data.datasets.mevis import load_mevis
from cot_data.moving_shapes.labels import LabelledObject, load_objects
from cot_data.traces.dialogue import to_trajectory
from cot_data.traces.write import write_trace
from env.frames import FrameCache
from env.types import Select, Task, Trajectory
from policy.videoseg.checkpoint import load_policy
from policy.videoseg.model import SegPolicy
from policy.vlm.batch import collate, to_sequence
from rl.runtime.progress import progress_bar

ZOOM_WORD = " unclear"  # the first word of a turn that zooms, after its topic
TRIES = 40  # traces of one task to search for one that zooms


def zooming_trace(task: Task, objects: tuple[LabelledObject, ...], config: EnvConfig) -> Trajectory | None:
    """Return a trace of the task that zooms, or None if none of `TRIES` does.

    Args:
        task: the task.
        objects: the objects of its video, with names and masks.
        config: settings of the environment.
    """
    for seed in range(TRIES):
        trace = write_trace(task, config, np.random.default_rng(seed), config.prompt, objects=objects)
        trajectory = to_trajectory(trace, task, config)
        if isinstance(trajectory.turns[0].decision, Select):
            return trajectory
    return None


def choice_gradient(policy: SegPolicy, trajectory: Trajectory, frames: FrameCache) -> tuple[float, Tensor]:
    """Return the probability of zooming, and the gradient of its logit.

    Args:
        policy: the policy.
        trajectory: a trajectory whose first turn zooms.
        frames: reads the frames.

    Returns:
        The probability, and the gradient by all weights that GRPO trains, as one vector.
    """
    sequence = to_sequence(trajectory, policy.chat, policy.layout)
    batch = collate([sequence], policy.chat, policy.layout, frames, policy.device)
    (token,) = policy.chat.encode(ZOOM_WORD)
    logprob = policy(batch).logprobs_BL[0, sequence.ids.index(token, sequence.turn_idx.index(0))]
    logit = logprob - torch.log1p(-logprob.exp())
    trained = [each for each in policy.vlm.parameters() if each.requires_grad]
    gradients = torch.autograd.grad(logit, trained, allow_unused=True)
    return float(logprob.detach().exp()), torch.cat([g.flatten() for g in gradients if g is not None])


def kernel_table(zooms: dict[str, list[float]], gradients: dict[str, list[Tensor]]) -> Table:
    """Return the table of zoom probabilities, kernels and cosines by kind of task."""
    means = {kind: torch.stack(each).mean(0) for kind, each in gradients.items()}
    table = Table("kind of task", "zooms", *(f"with {kind}" for kind in means), title="kernel (cosine)")
    for kind, mean in means.items():
        cosines = [torch.nn.functional.cosine_similarity(mean, other, dim=0) for other in means.values()]
        products = [mean @ other for other in means.values()]
        cells = [f"{float(k):.0f} ({float(c):.2f})" for k, c in zip(products, cosines, strict=True)]
        table.add_row(kind, f"{np.mean(zooms[kind]):.2f}", *cells)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of a policy whose traces are brief")
    parser.add_argument("--data", type=Path, required=True, help="folder of Moving Shapes")
    parser.add_argument("--tasks", type=int, default=8, help="tasks of each kind")
    args = parser.parse_args()
    config = load_config("tiny")
    policy, frames = load_policy(args.checkpoint, config.policy), FrameCache()
    objects = {each.video: each.objects for each in load_objects(args.data)}
    zooms: dict[str, list[float]] = {}
    gradients: dict[str, list[Tensor]] = {}
    by_kind: dict[str, list[Task]] = {}
    for task in load_mevis(args.data):
        by_kind.setdefault(task.explore or "plain", []).append(task)
    picked = [(kind, task) for kind, tasks in sorted(by_kind.items()) for task in tasks[: args.tasks]]
    with progress_bar("gradients", len(picked)) as advance:
        for kind, task in picked:
            trajectory = zooming_trace(task, objects[task.video], config.env)
            if trajectory is not None:
                probability, gradient = choice_gradient(policy, trajectory, frames)
                zooms.setdefault(kind, []).append(probability)
                gradients.setdefault(kind, []).append(gradient)
            advance()
    Console().print(kernel_table(zooms, gradients))


if __name__ == "__main__":
    main()
