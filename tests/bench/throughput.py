"""Measure the throughput of one rollout worker: `python -m tests.bench.throughput [--size 2B] [--tasks 16]`.

A policy with random weights and the sizes of Qwen3-VL-2B or 4B (or of the laptop's policy) runs episodes of Moving
Shapes with the frames and turns of `videoseg_o3/2b_grpo`. The environment and the engine are real, and the GPU is used
if there is one. Each turn's number of tokens is sampled beforehand from a heavy tail (log-normal, median 120, at most
512). Prints a Markdown table: trajectories and tokens per second, cached prompt tokens, and the GPU's use and memory by
`nvidia-smi`.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from configs.load import load_config
from configs.schema import EnvConfig, PolicyConfig
from policy.engines.env import set_engine_env
from rl.rollout.request import RolloutRequest
from tests.bench.rollout import UnevenSampler, run

MEDIAN, LONGEST = 120, 512  # tokens of a turn
SIZES = ("tiny", "2B", "4B")
CORPUS = ["the red circle moves left and stops near frame 12"]


def write_model(size: str, folder: Path) -> None:
    """Write a checkpoint of this size with random weights."""
    import torch
    from transformers import Qwen3VLForConditionalGeneration

    from policy.videoseg.checkpoint import build_small, save_policy
    from policy.videoseg.model import SegPolicy
    from tests.helpers.published_sizes import full_size

    policy = build_small(PolicyConfig(), CORPUS, seed=0)
    if size != "tiny":
        config, small = full_size(size, is_tied=True), policy.vlm.config
        for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
            setattr(config, name, getattr(small, name))
        config.get_text_config().eos_token_id = small.get_text_config().eos_token_id
        vlm = Qwen3VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
        policy = SegPolicy(vlm, policy.chat.tokenizer, policy.sam)
    save_policy(policy, folder)


@contextmanager
def watched_gpu() -> Iterator[list[tuple[float, float]]]:
    """Watch the first GPU: a list of (use in percent, memory in MiB) every half second, filled at the end."""
    found: list[tuple[float, float]] = []
    if shutil.which("nvidia-smi") is None:
        yield found
        return
    query = ["nvidia-smi", "--id=0", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
    process = subprocess.Popen([*query, "--loop-ms=500"], stdout=subprocess.PIPE, text=True)
    try:
        yield found
    finally:
        process.terminate()
        for line in process.communicate()[0].splitlines():
            use, memory = line.split(",")
            found.append((float(use), float(memory)))


def env_of(size: str) -> EnvConfig:
    env = load_config("tiny" if size == "tiny" else "videoseg_o3/2b_grpo", []).env
    return replace(env, max_seconds=1e6, max_turn_seconds=1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description="Trajectories and tokens per second of one rollout worker.")
    parser.add_argument("--size", choices=SIZES, default="2B")
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--sequences", type=int, default=64, help="episodes at a time")
    parser.add_argument("--sampler", default="vllm", help="vllm or hf")
    args = parser.parse_args()
    set_engine_env()
    # Heavy imports wait until the engine's environment variables are set.
    from cot_data.datasets import load_tasks
    from cot_data.moving_shapes.generate import write_moving_shapes
    from policy.engines import build_sampler
    from policy.vlm.load import load_chat

    env = env_of(args.size)
    sampler_config = load_config("tiny" if args.size == "tiny" else "videoseg_o3/2b_grpo", []).sampler
    sampler_config = replace(sampler_config, kind=args.sampler, max_sequences=args.sequences, memory_gb=4.0)
    longest = min(LONGEST, env.max_action_tokens)
    with tempfile.TemporaryDirectory() as folder:
        write_model(args.size, Path(folder) / "policy")
        write_moving_shapes(Path(folder) / "data", args.tasks + 1, seed=0)
        first_of_video = {task.video: task for task in load_tasks("mevis", Path(folder) / "data")}
        groups = [[RolloutRequest(task, 0, g, 0, 1.0) for g in range(args.group)] for task in first_of_video.values()]
        model = Path(folder) / "policy" / "vlm"
        engine = build_sampler(sampler_config, model, env.max_context_tokens, seed=0)
        end_id = load_chat(model)[0].end_id
        engine._chat.banned_ids += (end_id,)  # pyright: ignore[reportAttributeAccessIssue]  # no turn ends early
        # The first run fills caches and is not counted.
        run(UnevenSampler(engine, MEDIAN, longest), model, groups.pop(), env)
        counted = UnevenSampler(engine, MEDIAN, longest)
        requests = [item for group in groups for item in group]
        with watched_gpu() as gpu:
            used, wall = run(counted, model, requests, env)
        engine.close()

    use = f"{statistics.mean(each[0] for each in gpu):.0f} %" if gpu else "-"
    memory = f"{max(each[1] for each in gpu) / 1024:.1f}" if gpu else "-"
    print(
        "\n| policy | episodes | wall, s | CPU-s | episodes/s | tokens/s | prompt cached | GPU use | GPU memory, GiB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    print(
        f"| {args.size}, {args.sampler} | {len(requests)} | {wall:.1f} | {used:.1f} | {len(requests) / wall:.2f} "
        f"| {counted.written / wall:.0f} | {counted.cached / counted.prompted:.0%} | {use} | {memory} |"
    )


if __name__ == "__main__":
    main()
