"""How much processor time a rollout costs: vLLM, continuous, against Hugging Face `generate`, in lock-step.

    python tests/bench/rollout_speed.py [--tasks 4] [--group 4] [--repeats 2]

Both engines play the same conversations in one run: three turns, frames added in each, turns of very different length.
Processor seconds of this process are compared, not wall time, which means little on a shared machine. Prints a Markdown
row for LOG.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from policy.engine_env import set_engine_env
from policy.sampler import Request, Sampler

if TYPE_CHECKING:
    from policy.tokens import ChatTokens

TURNS = 3
STRIP, DETAIL, ZOOM = 8, 2, 5  # frames shown: first turn (low, high resolution), later turns (low; and one high)
LENGTHS = (16, 32, 160)  # tokens written per turn, drawn per turn: a random policy hardly ever ends by itself


@dataclass
class Talk:
    """One trajectory under way."""

    task: int
    lengths: list[int]
    ids: list[int] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)
    turns: int = 0


def noise(seed: int, side: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def frames_of(talk: Talk) -> list[np.ndarray]:
    """Siblings see the same frames in the first turn and their own ones later."""
    if talk.turns == 0:
        low = [noise(100 * talk.task + number, 32) for number in range(STRIP)]
        return low + [noise(100 * talk.task + 50 + number, 64) for number in range(DETAIL)]
    start = 100 * talk.task + talk.lengths[talk.turns]
    return [noise(start + number, 32) for number in range(ZOOM)] + [noise(start + ZOOM, 64)]


def rollout(sampler: Sampler, chat: ChatTokens, tasks: int, group: int, seed: int) -> int:
    """Play `tasks` x `group` conversations; returns the number of tokens written."""
    rng = np.random.default_rng(seed)
    talks = [Talk(task, rng.choice(LENGTHS, TURNS).tolist()) for task in range(tasks) for _ in range(group)]
    live: dict[str, Talk] = {}
    written = 0

    def send(number: int) -> None:
        talk = talks[number]
        images = frames_of(talk)
        shown = "<|vision_start|><|image_pad|><|vision_end|>" * len(images)
        text = "the red circle moves left and stops " * 4 if talk.turns == 0 else "the frames you chose "
        talk.ids += chat.encode(f"<|im_start|>user\n{text}{shown}<|im_end|>\n<|im_start|>assistant\n")
        talk.images += images
        name = f"{number}/{talk.turns}"
        live[name] = talk
        limit = talk.lengths[talk.turns]
        sampler.submit(Request(name, tuple(talk.ids), tuple(talk.images), limit, 1.0, 10 * number + talk.turns))

    for number in range(len(talks)):
        send(number)
    while sampler.has_work():
        for done in sampler.step():
            talk = live.pop(done.request_id)
            talk.ids += done.token_ids
            talk.turns += 1
            written += len(done.token_ids)
            if talk.turns < TURNS:
                send(int(done.request_id.split("/")[0]))
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description="Processor time of a rollout: vLLM against Hugging Face generate.")
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    set_engine_env()
    # Heavy imports wait until the engine's environment variables are set.
    from configs.schema import PolicyConfig, SamplerConfig
    from policy.build import build_small, load_chat, save_policy
    from policy.engines import build_sampler

    best: dict[str, float] = {}
    tokens: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        policy = build_small(PolicyConfig(), ["the red circle moves left and stops"], seed=0)
        save_policy(policy, Path(folder))
        parameters = sum(tensor.numel() for tensor in policy.export_weights().values())
        chat, _ = load_chat(Path(folder) / "vlm")
        for kind in ("vllm", "hf"):
            config = SamplerConfig(kind=kind, memory_gb=0.25)
            sampler = build_sampler(config, Path(folder) / "vlm", max_context=2048, seed=0)
            rollout(sampler, chat, tasks=1, group=2, seed=99)  # first calls pay for what later ones reuse
            for repeat in range(args.repeats):
                start = time.process_time()
                tokens[kind] = rollout(sampler, chat, args.tasks, args.group, seed=0)
                seconds = time.process_time() - start
                print(f"{kind} repeat {repeat}: {seconds:.2f} CPU-s, {tokens[kind]} tokens")
                best[kind] = min(seconds, best.get(kind, seconds))
                sampler.load_weights(policy.export_weights(), repeat)  # as in training: caches start empty
            sampler.close()
    count = args.tasks * args.group
    # The engines draw different tokens, so lengths differ a little: the ratio is of seconds per token.
    ratio = best["hf"] / tokens["hf"] / (best["vllm"] / tokens["vllm"])
    print("| trajectories x turns | parameters | vLLM CPU-s, tokens | HF CPU-s, tokens | HF / vLLM |\n|-|-|-|-|-|")
    print(
        f"| {count} x {TURNS} (G={args.group}) | {parameters / 1e6:.2f}M | {best['vllm']:.2f}, {tokens['vllm']} "
        f"| {best['hf']:.2f}, {tokens['hf']} | {ratio:.1f} |"
    )


if __name__ == "__main__":
    main()
