"""What a rollout costs: ours, vLLM in lock-step turns, and Hugging Face `generate` in lock-step, as is released.

    python -m tests.bench.rollout [--size tiny|100m] [--tasks 4] [--group 8] [--repeats 2]

All three play the same tasks in one run, with the real environment and frames, the same weights and the same number of
tokens in every turn, drawn beforehand from a heavy tail (log-normal, sigma 1, cut off at 8 medians): a random policy
neither ends by itself nor writes a select, so both are put in its mouth. Seconds are of this process's processor time,
with wall time beside them, which means less on a shared machine. Prints a Markdown table for LOG.md, with the floor:
the arithmetic that is left when nothing is done twice.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from configs.schema import EnvConfig, PolicyConfig, SamplerConfig
from env.episode import StepResult, VideoSegEnv
from env.types import Action, Answer, Interval, Select, StopReason
from policy.engine_env import set_engine_env
from policy.sampler import Completion, Request, Sampler
from rl.assignment import Assignment

if TYPE_CHECKING:
    from policy.model import SegPolicy

TURNS = 3
MEDIAN, LONGEST = 24, 8 * 24  # tokens of a turn
ENV = EnvConfig(
    prompt="brief",
    strip_frames=8,
    detail_frames=2,
    zoom_frames=5,
    size_factor=16,
    strip_pixels=32 * 32,
    detail_pixels=64 * 64,
    zoom_pixels=32 * 32,
    key_pixels=64 * 64,
    max_turns=TURNS,
    max_action_tokens=LONGEST,
    max_context_tokens=2048,
    max_seconds=1e6,
    max_turn_seconds=1e6,
)
SIZES = {
    "tiny": PolicyConfig(),
    "100m": PolicyConfig(hidden=768, layers=12, heads=12, vision_hidden=384, vision_layers=8, init_std=0.02),
}


class ScriptedEnv(VideoSegEnv):
    """The real one, but it does not read what was written: selects, somewhere, and an answer in the last turn."""

    def step(self, action: Action) -> StepResult:
        self._num_turns += 1
        last = self.task.video.num_frames - 1
        start = zlib.crc32(action.text.encode()) % last
        select = Select(Interval(start, last + 1), last)
        if self._num_turns < TURNS:
            return StepResult(select, self._look_closer(select), None)
        return StepResult(Answer(select.interval, last), None, StopReason.ANSWERED)


class Uneven:
    """Gives each turn its own number of tokens, and counts. `lock_step` holds back turns until all are written."""

    def __init__(self, sampler: Sampler, lock_step: bool, median: int = MEDIAN, longest: int = LONGEST):
        self.sampler = sampler
        self.lock_step = lock_step
        self.median, self.longest = median, longest
        self.written = self.prompted = self.cached = 0

    def submit(self, request: Request) -> None:
        drawn = np.random.default_rng(zlib.crc32(request.request_id.encode())).lognormal(np.log(self.median))
        self.sampler.submit(replace(request, max_tokens=max(1, min(self.longest, int(drawn)))))

    def step(self) -> list[Completion]:
        done = self.sampler.step()
        while self.lock_step and self.sampler.has_work():
            done += self.sampler.step()
        self.written += sum(len(each.token_ids) for each in done)
        self.prompted += sum(each.prompt_tokens for each in done)
        self.cached += sum(each.cached_tokens for each in done)
        return done

    def abort(self, request_ids: Sequence[str]) -> None:
        self.sampler.abort(request_ids)


def play(sampler: Uneven, model: Path, assignments: Sequence[Assignment], env: EnvConfig = ENV) -> tuple[float, float]:
    """(processor, wall) seconds of one rollout, caches of frames empty at its start."""
    import rl.rollout
    from env.frames import FrameCache
    from policy.build import load_chat

    rl.rollout.VideoSegEnv = ScriptedEnv
    chat, layout = load_chat(model)
    rollout = rl.rollout.Rollout(sampler, chat, layout, FrameCache(), env)  # pyright: ignore[reportArgumentType]
    used, started = time.process_time(), time.monotonic()
    played = list(rollout.run(assignments))
    seconds = time.process_time() - used, time.monotonic() - started
    assert all(len(trajectory.turns) == TURNS for trajectory in played), "an episode ended early"
    return seconds


def peak_gflops(rows: int, width: int) -> float:
    """What one matrix product of this machine reaches, as many threads as torch uses."""
    import torch

    left, right = torch.randn(rows, width), torch.randn(width, 4 * width)
    best = 1e9
    for _ in range(20):
        start = time.process_time()
        for _ in range(10):
            torch.matmul(left, right)
        best = min(best, time.process_time() - start)
    return 10 * 8 * rows * width * width / best / 1e9


def make_policy(size: str, folder: Path) -> SegPolicy:
    from policy.build import build_small, save_policy

    policy = build_small(SIZES[size], ["the red circle moves left and stops near frame 12"], seed=0)
    save_policy(policy, folder)
    return policy


def contenders(model: Path, weights: Mapping, assignments: Sequence[Assignment], repeats: int) -> dict[str, tuple]:
    """Name -> (best processor seconds with their wall seconds, counts of that engine)."""
    from policy.build import load_chat
    from policy.engines import build_sampler

    found = {}
    chat, _ = load_chat(model)
    for kind, ways in (("vllm", ("ours", "vLLM, lock-step")), ("hf", ("generate, lock-step",))):
        config = SamplerConfig(kind=kind, memory_gb=1.0, max_sequences=len(assignments))
        engine = build_sampler(config, model, ENV.max_context_tokens, seed=0)
        engine._chat.banned_ids += (chat.end_id,)  # pyright: ignore[reportAttributeAccessIssue]  # no turn ends early
        version = 0
        for way in ways:
            best, sampler = (float("inf"), 0.0), Uneven(engine, lock_step=way != "ours")
            for repeat in range(repeats + 1):
                engine.load_weights(weights, version := version + 1)  # as in training: caches start empty
                sampler = Uneven(engine, lock_step=way != "ours")
                # The first one is short: what is done once per process is not counted.
                seconds = play(sampler, model, assignments if repeat else assignments[:2])
                print(
                    f"{way}, repeat {repeat}: {seconds[0]:.2f} CPU-s, {seconds[1]:.2f} s, {sampler.written} tokens",
                    flush=True,
                )
                best = min(best, seconds) if repeat else best
            found[way] = best, sampler
        engine.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Processor time of a rollout: three ways, one run.")
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    set_engine_env()
    # Heavy imports wait until the engine's environment variables are set.
    from cot_data.datasets import load_tasks
    from cot_data.generate import write_moving_shapes

    with tempfile.TemporaryDirectory() as folder:
        policy = make_policy(args.size, Path(folder) / "policy")
        write_moving_shapes(Path(folder) / "data", args.tasks, seed=0)
        first_of_video = {task.video: task for task in load_tasks("mevis", Path(folder) / "data")}
        tasks = list(first_of_video.values())[: args.tasks]
        assignments = [Assignment(task, 0, g, 0, 1.0) for task in tasks for g in range(args.group)]
        weights = policy.moved_weights()
        found = contenders(Path(folder) / "policy" / "vlm", weights, assignments, args.repeats)

    parameters = sum(tensor.numel() for tensor in policy.vlm.model.language_model.parameters())
    (ours, sampler) = found["ours"]
    floor = 2 * parameters * (sampler.prompted - sampler.cached + sampler.written) / 1e9
    peak = peak_gflops(len(assignments), SIZES[args.size].hidden)
    cached = f"{sampler.cached} of {sampler.prompted} prompt tokens cached"
    print(f"\n{args.size}: {parameters / 1e6:.1f}M parameters, groups of {args.group}, {TURNS} turns, {cached}.")
    print(f"Floor of the language model: {floor:.0f} GFLOP, {floor / peak:.2f} CPU-s at {peak:.0f} GFLOP/s\n")
    print("| | CPU-s | over ours | wall, s | over ours | tokens |\n|---|---|---|---|---|---|")
    for way, ((used, wall), counts) in found.items():
        print(f"| {way} | {used:.2f} | {used / ours[0]:.1f} | {wall:.2f} | {wall / ours[1]:.1f} | {counts.written} |")


if __name__ == "__main__":
    main()
