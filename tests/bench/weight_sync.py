"""What a weight sync costs, and that it is right: `python -m tests.bench.weight_sync [--size 100m] [--syncs 20]`.

As in training: the learner's weights go to Ray's object store, a worker takes them out and copies them into vLLM. Once
with all weights, once with a frozen vision tower, once with low-rank adapters alone. After every sync the engine writes
some turns, and its log-probs are compared with those of a plain Hugging Face forward. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from configs.schema import PolicyConfig
from policy.engine_env import set_engine_env

if TYPE_CHECKING:
    from policy.model import SegPolicy
    from policy.weight_sync import Moved

T = TypeVar("T")
KINDS = {
    "all weights": PolicyConfig(),
    "vision tower frozen": PolicyConfig(freeze_vision=True),
    "adapters of rank 16": PolicyConfig(lora_rank=16, lora_alpha=32),
}


def timed(call: Callable[[], T], seconds: list[float]) -> T:
    started = time.monotonic()
    value = call()
    seconds.append(time.monotonic() - started)
    return value


def move(policy: SegPolicy, seed: int) -> None:
    """Change every weight that learns by a tenth of its spread."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.vlm.parameters():
            if parameter.requires_grad:
                spread = parameter.std().nan_to_num(0.0) + 1e-3
                parameter += 0.1 * spread * torch.randn(parameter.shape, generator=generator)


def megabytes(moved: Moved) -> float:
    import torch

    parts = []
    for value in moved.values():
        parts += [value] if isinstance(value, torch.Tensor) else [value.up_OR, value.down_RI]
    return sum(part.numel() * part.element_size() for part in parts) / 1e6


def measure(kind: str, folder: Path, syncs: int) -> str:
    """One row."""
    import ray
    import torch

    from policy.build import load_chat, load_policy
    from tests.sampler_parts import load_plain, make_sampler, play, worst_difference

    chat, _ = load_chat(folder / "vlm")
    sampler = make_sampler("vllm", folder / "vlm")
    policy, plain = load_policy(folder, KINDS[kind]), load_plain(folder / "vlm")
    put, get, load = [], [], []
    worst, moved, before = 0.0, {}, float("inf")
    for version in range(syncs):
        move(policy, seed=version)
        moved = {name: value.cpu() for name, value in policy.moved_weights().items()}
        ref = timed(lambda sent=moved: ray.put(sent), put)
        arrived = timed(lambda ref=ref: ray.get(ref), get)
        timed(lambda arrived=arrived, version=version: sampler.load_weights(arrived, version), load)
        talks = play(sampler, chat, count=4, salt=version)
        before = min(before, worst_difference(plain, chat, talks)[0])
        with torch.no_grad():
            plain.load_state_dict(policy.export_weights(), strict=False)
        worst = max(worst, worst_difference(plain, chat, talks)[0])
    sampler.close()
    times = " | ".join(f"{1000 * statistics.median(seconds):.0f}" for seconds in (put, get, load))
    return f"| {kind} | {len(moved)} | {megabytes(moved):.1f} | {times} | {worst:.1e} | {before:.1e} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Time, bytes and exactness of weight syncs.")
    parser.add_argument("--size", choices=("tiny", "100m"), default="100m")
    parser.add_argument("--syncs", type=int, default=20)
    args = parser.parse_args()
    set_engine_env()
    import ray

    from policy.build import build_small, save_policy
    from tests.bench.rollout import SIZES

    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    corpus = ["the red circle moves left", "the blue square stops and turns", "<think>frame 12</think>"] * 4
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        config = replace(SIZES[args.size], vocab_size=420)
        save_policy(build_small(config, corpus, seed=0), Path(folder))
        rows = [measure(kind, Path(folder), args.syncs) for kind in KINDS]
    ray.shutdown()
    print(f"\n{args.size}, {args.syncs} syncs, medians; differences of log-probs are the largest of any token\n")
    print("| | weights | MB | put, ms | get, ms | into the engine, ms | difference | to the weights before, at least |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
