"""Measure how busy the pool keeps many workers, and its cost: `python -m tests.bench.scheduler --workers 1 4 16 64`.

The Ray actors and the pool are real. Only the engine is a stand-in, which runs `--slots` episodes at a time and sleeps
for each turn for a time sampled from a heavy tail (log-normal, sigma 1, cut off at 8 medians). The ideal time is the
sum of all turns divided by the number of slots; no scheduler can be faster. A scheduler that does not know how long an
episode will take can at best give the next episode to the slot that is free first; the column `next free slot` is the
time of that. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import heapq
import resource
import tempfile
import time
from dataclasses import replace

import ray

from configs.schema import RunConfig
from rl.rollout.dispatcher import Capacity
from rl.rollout.pool import Pool
from rl.rollout.request import RolloutRequest
from tests.helpers.stand_in import HeavyTail, StandInWorker, group

GROUP = 8


def processor_seconds() -> float:
    """Return the processor seconds of this process, where the scheduler and Ray's client run."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def next_free_slot(work: list[float], running: int) -> float:
    """Return the seconds until all of `work` is done if each episode goes at once to the slot that is free first."""
    free_at = [0.0] * running
    for seconds in work:
        heapq.heapreplace(free_at, free_at[0] + seconds)
    return max(free_at)


def measure(workers: int, running: int, per_slot: int, turns: HeavyTail) -> str:
    """Measure one row of the table.

    Args:
        workers: Number of workers.
        running: Slots of each worker.
        per_slot: Episodes for every slot of every worker.
        turns: Seconds of an episode's turns.
    """
    groups: list[list[RolloutRequest]] = [group(f"t{at}", GROUP) for at in range(workers * running * per_slot // GROUP)]
    work = [sum(turns(item)) for each in groups for item in each]
    config = RunConfig()
    config = replace(config, grpo=replace(config.grpo, workers=workers))
    with tempfile.TemporaryDirectory() as folder:
        pool = Pool(config, StandInWorker, (running, folder, turns), workers, Capacity(running, queued=GROUP))
        pool.pids()
        list(pool.run([group("up", 1, step=-1)], ""))  # by now every worker has answered once
        started, used = time.monotonic(), processor_seconds()
        count = sum(1 for _ in pool.run(groups, ""))
        wall, used = time.monotonic() - started, processor_seconds() - used
        pool.close()
    assert count == len(work)
    ideal = sum(work) / workers / running
    return (
        f"| {workers} | {count} | {ideal:.1f} | {max(work):.1f} | {next_free_slot(work, workers * running):.1f} "
        f"| {wall:.1f} | {ideal / wall:.3f} | {1000 * used / count:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Scheduler efficiency and cost, with a timed stand-in for the engine.")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--slots", type=int, default=16, help="episodes that a worker runs at a time")
    parser.add_argument("--per-slot", type=int, default=24, help="episodes per slot")
    parser.add_argument("--median", type=float, default=1.5, help="seconds of a turn")
    args = parser.parse_args()
    ray.init("local", num_cpus=max(args.workers) + 1, include_dashboard=False, log_to_driver=False)
    print("| workers | episodes | ideal, s | longest, s | next free slot, s | wall, s | efficiency | driver, ms each |")
    print("|---|---|---|---|---|---|---|---|")
    for workers in args.workers:
        print(measure(workers, args.slots, args.per_slot, HeavyTail(args.median)), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
