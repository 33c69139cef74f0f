"""Measure a rollout: this project's, vLLM in lock-step turns, and Hugging Face `generate` in lock-step, as released.

    python -m tests.bench.rollout [--size tiny|100m] [--dtype float32|bfloat16] [--tasks 4] [--median 40] [--repeats 2]
                                  [--ways ours vllm vllm-group hf hf-group]

All ways run the same tasks in one process, with the real environment and frames, the same weights and the same number
of tokens in every turn, sampled beforehand from a heavy tail (log-normal, sigma 1, cut off at 8 medians and 512). A
random policy neither ends a turn by itself nor writes a select action, so the benchmark does both for it. In lock-step
all episodes of a batch start a turn together and wait for the longest. A batch is one group, as in the released trainer
(which shares the SAM 2 features of the first row), or all tasks. Seconds are this process's processor time; wall time,
which means less on a shared machine, is printed too. Prints a Markdown table for LOG.md, with a lower bound: the
arithmetic that is left if nothing is computed twice, and the reading of the weights.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from configs.schema import EnvConfig, PolicyConfig, SamplerConfig
from env.episode import StepResult, VideoSegEnv
from env.types import Action, Answer, Interval, Select, StopReason
from policy.engines.base import Completion, GenerationRequest, Sampler
from policy.engines.env import set_engine_env
from rl.rollout.request import RolloutRequest

if TYPE_CHECKING:
    from policy.videoseg.model import SegPolicy

TURNS = 3
MEDIAN = 40  # tokens of a turn; the mean is 62, as the shipped policy writes
LONGEST = 512  # the released trainer's limit of a turn
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
    max_context_tokens=2048,
    max_seconds=1e6,
    max_turn_seconds=1e6,
)
SIZES = {
    "tiny": PolicyConfig(),
    "100m": PolicyConfig(hidden=768, layers=12, heads=12, vision_hidden=384, vision_layers=8, init_std=0.02),
}


class ScriptedEnv(VideoSegEnv):
    """The real environment with scripted actions: a select of some interval in each turn, and an answer in the last."""

    def step(self, action: Action) -> StepResult:
        self._num_turns += 1
        last = self.task.video.num_frames - 1
        start = zlib.crc32(action.text.encode()) % last
        select = Select(Interval(start, last + 1), last)
        if self._num_turns < TURNS:
            return StepResult(select, self._look_closer(select), None)
        return StepResult(Answer(select.interval, last), None, StopReason.ANSWERED)


class UnevenSampler:
    """A sampler that gives each turn a number of tokens of its own, and counts tokens.

    With `lock_step` episodes in step, no turn starts before the turns of all of them are submitted, and none is
    returned before all are written.
    """

    def __init__(self, sampler: Sampler, median: int, longest: int, lock_step: int = 0):
        self.sampler = sampler
        self.median, self.longest = median, longest
        self.lock_step = lock_step
        self.waiting = 0  # submitted turns that have not started
        self.written = self.prompted = self.cached = self.steps = 0

    def submit(self, request: GenerationRequest) -> None:
        length = np.random.default_rng(zlib.crc32(request.request_id.encode())).lognormal(np.log(self.median))
        self.sampler.submit(replace(request, max_tokens=max(1, min(self.longest, int(length)))))
        self.waiting += 1

    def step(self) -> list[Completion]:
        if self.waiting < self.lock_step:  # frames of some are still being read
            time.sleep(1e-3)
            return []
        self.waiting = 0
        done = self._step()
        while self.lock_step and self.sampler.has_work():
            done += self._step()
        self.written += sum(len(each.token_ids) for each in done)
        self.prompted += sum(each.prompt_tokens for each in done)
        self.cached += sum(each.cached_tokens for each in done)
        return done

    def _step(self) -> list[Completion]:
        self.steps += 1
        return self.sampler.step()

    def abort(self, request_ids: Sequence[str]) -> None:
        self.sampler.abort(request_ids)


def run(sampler: UnevenSampler, model: Path, requests: Sequence[RolloutRequest], env: EnvConfig) -> tuple[float, float]:
    """Run one rollout, with empty caches of frames at its start.

    Args:
        sampler: Writes the turns.
        model: Folder of the language model, for its tokenizer.
        requests: The episodes.
        env: Settings of the environment.

    Returns:
        Processor and wall seconds.
    """
    from env.frames import FrameCache
    from policy.vlm.load import load_chat
    from rl.rollout import episode_runner

    episode_runner.VideoSegEnv = ScriptedEnv
    chat, layout = load_chat(model)
    rollout = episode_runner.EpisodeRunner(sampler, chat, layout, FrameCache(), env)  # pyright: ignore[reportArgumentType]
    used, started = time.process_time(), time.monotonic()
    trajectories = list(rollout.run(requests))
    seconds = time.process_time() - used, time.monotonic() - started
    assert all(len(trajectory.turns) == TURNS for trajectory in trajectories), "an episode ended early"
    return seconds


def peak_gflops(rows: int, width: int, dtype: str) -> float:
    """Return the GFLOP/s of one matrix product [rows, width] x [width, 4 width] in `dtype` on this machine."""
    import torch

    kind = getattr(torch, dtype)
    left, right = torch.randn(rows, width, dtype=kind), torch.randn(width, 4 * width, dtype=kind)
    best = 1e9
    for _ in range(20):
        start = time.process_time()
        for _ in range(10):
            torch.matmul(left, right)
        best = min(best, time.process_time() - start)
    return 10 * 8 * rows * width * width / best / 1e9


def read_gb_per_s() -> float:
    """Return how fast memory is read. An engine step of few tokens waits for this, since it reads every weight."""
    import torch

    values = torch.ones(100_000_000)
    best = 1e9
    for _ in range(5):
        start = time.process_time()
        values.sum()
        best = min(best, time.process_time() - start)
    return values.nbytes / best / 1e9


def make_policy(size: str, folder: Path) -> SegPolicy:
    from policy.videoseg.checkpoint import build_small, save_policy

    policy = build_small(SIZES[size], ["the red circle moves left and stops near frame 12"], seed=0)
    save_policy(policy, folder)
    return policy


@dataclass(frozen=True)
class Way:
    """One way to run the same tasks."""

    key: str
    name: str
    engine: Literal["vllm", "hf"]
    at_once: int  # episodes of a batch; the next batch starts after it
    lock_step: bool = True


WAYS = ("ours", "vllm", "vllm-group", "hf", "hf-group")


def ways(keys: Sequence[str], everyone: int, group: int) -> list[Way]:
    all_ways = [
        Way("ours", "this project", "vllm", everyone, lock_step=False),
        Way("vllm", "vLLM in lock-step, all tasks together", "vllm", everyone),
        Way("vllm-group", "vLLM in lock-step, a group at a time", "vllm", group),
        Way("hf", "`generate` in lock-step, all tasks together", "hf", everyone),
        Way("hf-group", "`generate` in lock-step, a group at a time, as released", "hf", group),
    ]
    return [way for way in all_ways if way.key in keys]


def compare(
    model: Path,
    weights: Mapping,
    requests: Sequence[RolloutRequest],
    chosen: Sequence[Way],
    args: argparse.Namespace,
) -> dict[str, tuple[tuple[float, float], UnevenSampler]]:
    """Run every way several times; the ways of one engine alternate.

    Args:
        model: Folder of the language model.
        weights: Its weights, loaded into the engine before each rollout.
        requests: The episodes.
        chosen: The ways, those of one engine next to each other.
        args: The command's arguments.

    Returns:
        Name -> ((processor seconds, wall seconds) of the fastest repeat, its counts).
    """
    from policy.engines import build_sampler

    longest = min(8 * args.median, LONGEST)
    env = replace(ENV, max_action_tokens=longest)
    found: dict[str, tuple[tuple[float, float], UnevenSampler]] = {}
    for kind, same in groupby(chosen, key=lambda way: way.engine):
        config = SamplerConfig(kind=kind, dtype=args.dtype, memory_gb=0.25 * args.tasks, max_sequences=len(requests))
        engine = build_sampler(config, model, ENV.max_context_tokens, seed=0)
        chat = engine._chat  # pyright: ignore[reportAttributeAccessIssue]
        chat.banned_ids += (chat.end_id,)  # no turn ends early
        # The first repeat is short and not counted: it pays for what is done once per process.
        for version, (repeat, way) in enumerate(product(range(args.repeats + 1), tuple(same))):
            engine.load_weights(weights, version)  # as in training: caches start empty
            episodes = requests if repeat else requests[:2]
            sampler = UnevenSampler(
                engine, args.median, longest, min(way.at_once, len(episodes)) if way.lock_step else 0
            )
            batches = [episodes[at : at + way.at_once] for at in range(0, len(episodes), way.at_once)]
            parts = [run(sampler, model, batch, env) for batch in batches]
            seconds = sum(used for used, _ in parts), sum(wall for _, wall in parts)
            print(f"{way.name}, repeat {repeat}: {seconds[0]:.2f} CPU-s, {sampler.written} tokens", flush=True)
            if repeat and (way.name not in found or seconds < found[way.name][0]):
                found[way.name] = seconds, sampler
        engine.close()
    return found


def print_floor(parameters: int, dtype: str, counts: UnevenSampler, peak: float) -> None:
    """Print the time of the language model's arithmetic, nothing computed twice, and of reading its weights per step.

    Args:
        parameters: Number of the language model's parameters.
        dtype: Of the engine.
        counts: Tokens and steps of a rollout.
        peak: GFLOP/s of this machine.
    """
    work = 2 * parameters * (counts.prompted - counts.cached + counts.written) / 1e9
    reading = counts.steps * parameters * (2 if dtype == "bfloat16" else 4) / 1e9
    speed = read_gb_per_s()
    print(f"Floor: {work:.0f} GFLOP, {work / peak:.1f} CPU-s at {peak:.0f} GFLOP/s;")
    print(f"{counts.steps} steps read {reading:.0f} GB of weights, {reading / speed:.1f} CPU-s at {speed:.1f} GB/s\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Processor time of a rollout in five ways.")
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--median", type=int, default=MEDIAN, help="tokens of a turn (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    args = parser.parse_args()
    set_engine_env()
    # Heavy imports wait until the engine's environment variables are set.
    from cot_data.datasets import load_tasks
    from cot_data.moving_shapes.generate import write_moving_shapes

    with tempfile.TemporaryDirectory() as folder:
        policy = make_policy(args.size, Path(folder) / "policy")
        write_moving_shapes(Path(folder) / "data", args.tasks, seed=0)
        first_of_video = {task.video: task for task in load_tasks("mevis", Path(folder) / "data")}
        tasks = list(first_of_video.values())[: args.tasks]
        requests = [RolloutRequest(task, 0, g, 0, 1.0) for task in tasks for g in range(args.group)]
        weights = policy.weight_update()
        model = Path(folder) / "policy" / "vlm"
        chosen = ways(args.ways, len(requests), args.group)
        found = compare(model, weights, requests, chosen, args)

    parameters = sum(tensor.numel() for tensor in policy.vlm.model.language_model.parameters())
    first, sampler = next(iter(found.values()))
    print(f"\n{args.size}, {args.dtype}: {parameters / 1e6:.1f}M parameters, groups of {args.group}, {TURNS} turns.")
    print_floor(parameters, args.dtype, sampler, peak_gflops(len(requests), SIZES[args.size].hidden, args.dtype))
    print(
        "| | CPU-s | over the first | wall, s | over the first | steps of the engine | prompt tokens cached | written |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, ((used, wall), counts) in found.items():
        times = f"{used:.2f} | {used / first[0]:.1f} | {wall:.2f} | {wall / first[1]:.1f}"
        print(f"| {name} | {times} | {counts.steps} | {counts.cached} of {counts.prompted} | {counts.written} |")


if __name__ == "__main__":
    main()
