"""Measure a weight sync and check that it is exact: `python -m tests.bench.weight_sync [--size 100m] [--syncs 20]`.

As in training, the learner offers its weights, and an engine in another process fetches and loads them. Every transport
is measured with all weights, with a frozen vision tower, and with low-rank adapters alone. After every sync the engine
writes some turns, and its log-probs are compared with those of a plain Hugging Face forward pass. Prints a Markdown
table.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track

from configs.schema import PolicyConfig
from policy.engines.env import set_engine_env

if TYPE_CHECKING:
    from policy.engines.weight_update import WeightUpdate
    from policy.videoseg.model import SegPolicy

KINDS = {
    "all weights": PolicyConfig(),
    "vision tower frozen": PolicyConfig(freeze_vision=True),
    "adapters of rank 16": PolicyConfig(lora_rank=16, lora_alpha=32),
}


def change_weights(policy: SegPolicy, seed: int) -> None:
    """Change every trained weight by a tenth of its tensor's standard deviation."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.vlm.parameters():
            if parameter.requires_grad:
                spread = parameter.std().nan_to_num(0.0) + 1e-3
                parameter += 0.1 * spread * torch.randn(parameter.shape, generator=generator)


def megabytes(weights: WeightUpdate) -> float:
    import torch

    parts = []
    for value in weights.values():
        parts += [value] if isinstance(value, torch.Tensor) else [value.up_OR, value.down_RI]
    return sum(part.numel() * part.element_size() for part in parts) / 1e6


class Engine:
    """A rollout worker's sampler, as a Ray actor."""

    def __init__(self, folder: Path):
        set_engine_env()
        from policy.vlm.load import load_chat
        from tests.helpers.sampler_parts import make_sampler

        self.chat, _ = load_chat(folder / "vlm")
        self.sampler = make_sampler("vllm", folder / "vlm")

    def sync(self, references: list[Any], version: int) -> tuple[float, float]:
        """Fetch and load the offered weights; return the seconds of both."""
        from rl.rollout.weight_transport import fetch

        started = time.monotonic()
        weights = fetch(references[0], seconds=300)
        fetched = time.monotonic()
        self.sampler.load_weights(weights, version)
        return fetched - started, time.monotonic() - fetched

    def talk(self, salt: int) -> list[Any]:
        from tests.helpers.sampler_parts import play

        return play(self.sampler, self.chat, count=4, salt=salt)


def measure(kind: str, transport: str, folder: Path, syncs: int) -> str:
    """Measure one row, with an engine of its own: NIXL keeps a core of its process busy from the first use on.

    Args:
        kind: A key of KINDS.
        transport: One of `rl.rollout.weight_transport.TRANSPORTS`.
        folder: The policy's checkpoint.
        syncs: How many syncs to measure.
    """
    import ray
    import torch

    from policy.videoseg.checkpoint import load_policy
    from policy.vlm.load import load_chat
    from rl.rollout.weight_transport import offer
    from tests.helpers.sampler_parts import load_plain, worst_difference

    chat, _ = load_chat(folder / "vlm")
    engine: Any = ray.remote(num_cpus=1)(Engine).remote(folder)
    policy, plain = load_policy(folder, KINDS[kind]), load_plain(folder / "vlm")
    seconds: tuple[list[float], ...] = ([], [], [])
    worst, before, weights = 0.0, float("inf"), {}
    talks = ray.get(engine.talk.remote(0))
    for version in track(range(1, syncs + 1), f"{kind} by {transport}", console=Console(stderr=True)):
        change_weights(policy, seed=version)
        with torch.no_grad():
            plain.load_state_dict(policy.export_weights(), strict=False)
        before = min(before, worst_difference(plain, chat, talks)[0])
        weights = policy.weight_update()
        started = time.monotonic()
        references = [offer(weights, transport, "float32")]
        seconds[0].append(time.monotonic() - started)
        for part, value in zip(seconds[1:], ray.get(engine.sync.remote(references, version)), strict=True):
            part.append(value)
        talks = ray.get(engine.talk.remote(version))
        worst = max(worst, worst_difference(plain, chat, talks)[0])
    ray.kill(engine)
    times = " | ".join(f"{1000 * statistics.median(part):.0f}" for part in seconds)
    return (
        f"| {kind} | {len(weights)} | {megabytes(weights):.1f} | {transport} | {times} | {worst:.1e} | {before:.1e} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Time, bytes and exactness of weight syncs.")
    parser.add_argument("--size", choices=("tiny", "100m"), default="100m")
    parser.add_argument("--syncs", type=int, default=20)
    parser.add_argument("--transports", nargs="+", default=["object_store", "nixl"], help="in this order")
    args = parser.parse_args()
    set_engine_env()
    import ray

    from policy.videoseg.checkpoint import build_small, save_policy
    from tests.bench.rollout import SIZES

    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    corpus = ["the red circle moves left", "the blue square stops and turns", "<think>frame 12</think>"] * 4
    print(f"\n{args.size}, {args.syncs} syncs, medians; differences of log-probs are the largest of any token\n")
    print("| | weights | MB | by | offer, ms | fetch, ms | load, ms | difference | to the weights before, at least |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        config = replace(SIZES[args.size], vocab_size=420)
        save_policy(build_small(config, corpus, seed=0), Path(folder))
        for transport, kind in itertools.product(args.transports, KINDS):
            print(measure(kind, transport, Path(folder), args.syncs), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
