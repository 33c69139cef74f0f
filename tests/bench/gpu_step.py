"""Time and memory of a learner step at real size on one GPU: `python -m tests.bench.gpu_step [--size 2B] [--group 8]`.

A policy with random weights in the shape of Qwen3-VL-2B or 4B and SAM 2.0 Hiera-L reads trajectories of two turns with
the frames of `videoseg_o3/2b_grpo` (Moving Shapes) and takes GRPO steps on them, settings as published. Prints Markdown
tables: seconds and peak memory of a step, what each part holds, and SAM 2's image encoder by precision.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen3VLForConditionalGeneration

from configs.load import load_config
from configs.policy_schema import PolicyConfig, SamConfig
from configs.schema import RunConfig
from cot_data.datasets import load_tasks
from cot_data.moving_shapes.generate import write_moving_shapes
from env.actions import format_decision
from env.episode import VideoSegEnv
from env.frames import FrameCache, FrameCaches
from env.types import Action, Answer, Interval, Select, StopReason, Task, Trajectory, Turn
from policy.sam.build import build_sam
from policy.videoseg.checkpoint import build_small
from policy.videoseg.model import SegPolicy
from rl.learner.learner import LocalLearner
from tests.helpers.published_sizes import full_size

CORPUS = ["the red circle moves left and stops near frame 12"]
GIB = 2**30


def build_policy(size: str, config: PolicyConfig) -> SegPolicy:
    """A policy of real size with random weights on the GPU."""
    small = build_small(PolicyConfig(), CORPUS, seed=0)
    shape = full_size(size, is_tied=True)
    for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        setattr(shape, name, getattr(small.vlm.config, name))
    shape.get_text_config().eos_token_id = small.vlm.config.get_text_config().eos_token_id
    with torch.device("cuda"):
        vlm = Qwen3VLForConditionalGeneration._from_config(shape, dtype=torch.float32)
    policy = SegPolicy(vlm, small.chat.tokenizer, build_sam(SamConfig(variant="sam2_hiera_l"))).to("cuda").eval()
    policy.vlm.model.visual.requires_grad_(not config.freeze_vision)
    policy.compute_dtype = torch.bfloat16
    if config.recompute_activations:
        policy.recompute_activations()
    return policy


def trajectory(policy: SegPolicy, task: Task, config: RunConfig, sibling: int, num_tokens: int) -> Trajectory:
    """Two turns through the real environment: one that zooms, one that answers, each of `num_tokens` random words."""
    rng = np.random.default_rng([sibling, len(task.expression)])
    words = CORPUS[0].split()
    env = VideoSegEnv(task, replace(config.env, max_seconds=1e6))
    item = Trajectory(f"0/{task.task_id}/{sibling}", task, 0, sibling)
    observation = env.first_observation()
    num_frames = task.video.num_frames
    for decision in (Select(Interval(0, num_frames), 1 + sibling % 4), Answer(Interval(0, num_frames), 2)):
        thought = " ".join(words[at] for at in rng.integers(0, len(words), num_tokens))
        text = f"<think>{thought}</think>{format_decision(decision)}<|im_end|>"
        ids = tuple(policy.chat.action_ids(text))
        action = Action(text, ids, (-1.0,) * len(ids), weights_version=0)
        observation_ids = tuple(policy.chat.observation_ids(observation, first=not item.turns))
        result = env.step(action)
        item.turns.append(Turn(observation, action, result.decision, observation_ids))
        if result.observation is not None:
            observation = result.observation
    assert env.seconds >= 0 and result.stop_reason is StopReason.ANSWERED, result
    item.stop_reason = result.stop_reason
    return item


def timed(act: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of `act`, run once before, and peak memory in GiB."""
    act()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        act()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), torch.cuda.max_memory_allocated() / GIB


def assign(group: Sequence[Trajectory]) -> None:
    for at, item in enumerate(group):
        item.advantage = 1.0 - 2.0 * (at % 2)


def step_table(policy: SegPolicy, config: RunConfig, tasks: Sequence[Task], args: argparse.Namespace) -> None:
    weights = torch.cuda.memory_allocated() / GIB
    frames = FrameCache(max_bytes=4 << 30)
    learner = LocalLearner(policy, config, FrameCaches(frames, frames))
    with_reference = torch.cuda.memory_allocated() / GIB
    groups = [
        [trajectory(policy, task, config, sibling, args.tokens) for sibling in range(args.group)] for task in tasks
    ]
    lengths = [sum(len(turn.action.token_ids) for turn in item.turns) for group in groups for item in group]
    seconds, peak = timed(partial(learner.learn, groups, assign), args.repeats)
    scoring, _ = timed(partial(learner.fill_logprobs_and_masks, groups[0]), args.repeats)
    held = torch.cuda.memory_allocated() / GIB
    trained = sum(parameter.numel() for parameter in learner.optimizer.parameters) / 1e9
    print(f"\n{len(groups)} groups of {args.group}, {np.mean(lengths):.0f} action tokens each")
    print(
        "| policy | trained, 1e9 | weights, GiB | with reference | with Adam's state | peak | s per step | s to score |"
    )
    print("|---|---|---|---|---|---|---|---|")
    print(
        f"| {args.size} | {trained:.2f} | {weights:.1f} | {with_reference:.1f} | {held:.1f} | {peak:.1f} "
        f"| {seconds:.2f} | {scoring:.2f} |"
    )


def encoder_table(policy: SegPolicy, tasks: Sequence[Task], repeats: int) -> None:
    """SAM 2's frozen image encoder on 16 frames: float32, TensorFloat-32 and bfloat16."""
    frames = FrameCache()
    images = [frames.full(tasks[0].video, at) for at in range(16)]
    print("\n| image encoder, 16 frames | s | peak, GiB | largest difference, relative |\n|---|---|---|---|")
    expected = None
    for name, tf32, dtype in (
        ("float32", False, None),
        ("TensorFloat-32", True, None),
        ("bfloat16", True, torch.bfloat16),
    ):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32

        def encode(dtype: torch.dtype | None = dtype):
            with torch.no_grad(), torch.autocast("cuda", dtype, enabled=dtype is not None):
                return policy.sam.encode_frames(images).levels[-1].float()

        seconds, peak = timed(encode, repeats)
        found = encode()
        expected = found if expected is None else expected
        difference = float((found - expected).abs().max() / expected.abs().max())
        print(f"| {name} | {seconds:.3f} | {peak:.1f} | {difference:.1e} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of a learner step at real size on one GPU.")
    parser.add_argument("--size", choices=("2B", "4B"), default="2B")
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=120, help="words of thought in a turn")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    args = parser.parse_args()
    config = load_config(f"videoseg_o3/{args.size.lower()}_grpo", ["grpo.learner_ranks=1", *args.overrides])
    print(f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        write_moving_shapes(Path(folder) / "data", args.tasks, seed=0)
        by_video = {task.video: task for task in load_tasks("mevis", Path(folder) / "data")}
        tasks = list(by_video.values())[: args.tasks]
        policy = build_policy(args.size, config.policy)
        step_table(policy, config, tasks, args)
        encoder_table(policy, tasks, args.repeats)


if __name__ == "__main__":
    main()
