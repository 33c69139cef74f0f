"""Measure a learner step, and the saving when the common prefix of siblings is computed once.

    python -m tests.bench.learner_step RUN [--config tiny] [--step 10] [--tokens 4096 12288] [--repeats 2]

Trains the shipped policy, or --policy, on the stored trajectories of one step of a GRPO run (RUN/trajectories), with
micro-batches of --tokens tokens, alternately with and without a shared prefix. Prints processor seconds as a Markdown
table.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from itertools import groupby
from pathlib import Path

import torch

import policy.videoseg.model
from configs.load import load_config
from configs.schema import RunConfig
from env.frames import FrameCache, FrameCaches
from env.store import TrajectoryStore
from env.types import Trajectory
from policy import SHIPPED
from policy.videoseg.checkpoint import load_policy
from policy.vlm.batch import Batch
from policy.vlm.shared_prefix import hidden_states
from rl.learner.advantage import assign_advantages
from rl.learner.learner import LocalLearner


def whole_rows(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Run the library's own forward pass, which computes every row in full."""
    return model(
        input_ids=batch.input_ids_BL,
        attention_mask=batch.attention_mask_BL,
        pixel_values=batch.pixel_values,
        image_grid_thw=batch.image_grid_thw,
        mm_token_type_ids=batch.image_mask_BL,
        use_cache=False,
    ).last_hidden_state


WAYS = {"shared": hidden_states, "whole rows": whole_rows}


def step_seconds(learner: LocalLearner, config: RunConfig, groups: list[list[Trajectory]], way: str) -> float:
    """Return the processor seconds of one step."""
    policy.videoseg.model.hidden_states = WAYS[way]
    start = time.process_time()
    learner.learn(groups, partial(assign_advantages, config=config))
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Processor time of a learner step.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--config", default="tiny")
    parser.add_argument("--policy", type=Path, default=SHIPPED)
    parser.add_argument("--step", type=int, default=10)
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 12288])
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()

    everything = [item for item in TrajectoryStore(args.run / "trajectories").read() if item.step == args.step]
    by_task = groupby(everything, key=lambda item: item.task.task_id)
    groups = [list(group) for _, group in by_task]
    print(f"{len(everything)} trajectories in {len(groups)} groups, {torch.get_num_threads()} threads\n")
    print("| tokens of a micro-batch | shared, CPU-s | whole rows, CPU-s | ratio |\n|---|---|---|---|")
    frames = FrameCache()
    for tokens in args.tokens:
        config = load_config(args.config, [f"grpo.max_batch_tokens={tokens}"])
        learner = LocalLearner(load_policy(args.policy, config.policy), config, FrameCaches(frames, frames))
        step_seconds(learner, config, groups[:1], "shared")  # caches are filled before the measurement
        best = {way: min(step_seconds(learner, config, groups, way) for _ in range(args.repeats)) for way in WAYS}
        shared, whole = best["shared"], best["whole rows"]
        print(f"| {tokens} | {shared:.1f} | {whole:.1f} | {whole / shared:.2f} |", flush=True)


if __name__ == "__main__":
    main()
