"""Kill commands at random moments, or fill their disk, start them again, and compare with undisturbed runs.

    python -m tests.chaos.kill_sweep --kills 100 --full-disks 20 --out FOLDER [--only grpo ...] [--seed 0]

Every kind of run is first run twice undisturbed. What differs between those two (seconds, tokens per second) is not
compared. Then it is started, killed with SIGKILL after a random part of the undisturbed time, and started again by the
same command with --resume, until the wanted number of kills is reached; a run that ends in between is compared, and the
next one begins. Every figure, weight and log-prob has to be the same to the last bit. For that the engine writes one
episode at a time: in larger batches the last bits of log-probs depend on which episodes share a batch, and a resumed
run batches those that are left.

A full disk needs a small file system: the sweep mounts one in a namespace of its own (`unshare`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.helpers.rl_parts import MICRO, Micro, train_micro

TIMED = ("time/", "seconds", "_per_s", "wall", "worker_", "peak_bytes", "provenance", "rollout/failures")
RUN = "<run>"  # stands for the folder of the run
PATIENCE = 600.0  # seconds for one undisturbed run
FULL_SIZE = 768 << 20  # bytes of the small file system
MOUNTED = "KILL_SWEEP_MOUNTED"  # environment variable: the folder that is a small file system
MACHINE = ("cannot be written", "No space left", "free some space")


@dataclass(frozen=True)
class Kind:
    """One command of the sweep. `RUN` in its arguments is the folder of the run."""

    name: str
    arguments: list[str]
    figures: tuple[str, ...]  # glob patterns of the files that are compared
    resume: tuple[str, ...] = ("--resume",)

    def command(self, run: Path, again: bool) -> list[str]:
        """Return the command line of a first start, or of a later one."""
        words = [word.replace(RUN, str(run)) for word in self.arguments]
        return [sys.executable, "-m", *words, *(self.resume if again else ())]


def sets(*texts: str) -> list[str]:
    return [word for text in texts for word in ("--set", text)]


STAGES = (
    "cold_start.stages=[{kind: masks, steps: 6, batch_size: 2, lr: 1.0e-3, mask_points: 64}, "
    "{kind: vision, steps: 4, batch_size: 2, lr: 1.0e-3}, {kind: captions, steps: 6, batch_size: 2, lr: 1.0e-3}, "
    "{kind: dialogue, steps: 10, batch_size: 2, lr: 1.0e-3, align_coef: 0.5}]"
)
STEPS = ("grpo.steps=4", "grpo.tasks_per_step=2", "grpo.group_size=2", "grpo.save_every=2", "grpo.lr=3.0e-4")
PATIENT = ("env.max_seconds=3600", "env.max_turn_seconds=3600", "sampler.kind=hf", "sampler.max_sequences=1")


def kinds(micro: Micro) -> dict[str, Kind]:
    """Return all kinds: small configs that use every writer."""
    smoke, run_dir, checkpoint = ["--config", "smoke"], f"run_dir={RUN}", f"policy.path={micro.policy}"
    data = (f"data.train_root={micro.data}", f"data.eval_root={micro.data}")
    own_data = (f"data.train_root={RUN}/data/train", f"data.eval_root={RUN}/data/heldout")
    weights = "policy/**/*.safetensors"
    grpo = sets(*MICRO, run_dir, *data, checkpoint, *PATIENT, *STEPS)
    cold = sets(*MICRO, run_dir, *data, "cold_start.save_every=2", "cold_start.log_every=1", STAGES)
    held_out = sets(*MICRO, *data, *PATIENT, "eval.num_tasks=8")
    demo = sets(run_dir, *own_data, *PATIENT)
    stores = ("trajectories/*.jsonl", "trajectories_blind/*.jsonl")
    found = [
        Kind("grpo", ["rl.grpo", *smoke, *grpo], ("metrics.jsonl", "trajectories/*.jsonl", f"checkpoints/*/{weights}")),
        Kind(
            "cold_start",
            ["rl.sft_coldstart", *smoke, *cold],
            ("**/metrics.jsonl", weights, "untrained/seg.safetensors"),
        ),
        Kind(
            "evaluate",
            ["rl.evaluate", *smoke, "--checkpoint", str(micro.policy), "--out", RUN, *held_out],
            ("results.json", *stores),
            (),
        ),
        Kind(
            "traces",
            ["cot_data.build", str(micro.data), "--out", f"{RUN}/traces.json", "--config", "tiny"],
            ("traces.json", "traces.left_out.json"),
            (),
        ),
        Kind(
            "demo",
            ["rl.demo", *smoke, "--train-videos", "2", "--eval-videos", "1", *demo],
            ("data/*/*.json", "grpo/metrics.jsonl", f"grpo/checkpoints/*/{weights}", "eval/*/results.json"),
        ),
    ]
    return {kind.name: kind for kind in found}


# ---- figures ----


def figures(kind: Kind, run: Path) -> dict[str, Any]:
    """Return everything that is compared, by file and place: values of JSON files, hashes of all others."""
    found: dict[str, Any] = {}
    for pattern in kind.figures:
        for path in sorted(run.glob(pattern)):
            name = str(path.relative_to(run))
            if "earlier-" in name:
                continue
            if path.suffix == ".jsonl":
                rows = [json.loads(line) for line in path.read_text().splitlines()]
                key = "trajectory_id" if rows and "trajectory_id" in rows[0] else "task_id"
                ordered = sorted(rows, key=lambda row: str(row.get(key, row.get("step"))).zfill(8))
                values: Any = {str(row.get(key, row.get("step"))): row for row in ordered}
                found[f"{name}:rows"] = len(rows)
            elif path.suffix == ".json":
                values = json.loads(path.read_text())
            else:
                values = hashlib.sha256(path.read_bytes()).hexdigest()
            found |= {f"{name}:{place}": value for place, value in leaves(values, str(run))}
    return found


def leaves(value: Any, run: str, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (place, value) of a JSON value; the run's own folder is written as `RUN`."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, run, f"{place}/{key}")
    elif isinstance(value, list):
        for at, part in enumerate(value):
            yield from leaves(part, run, f"{place}/{at}")
    else:
        yield place, value.replace(run, RUN) if isinstance(value, str) else value


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Return the places where two runs differ, without those that tell time."""
    return [
        place
        for place in {**ours, **theirs}
        if ours.get(place) != theirs.get(place) and not any(word in place for word in TIMED)
    ]


# ---- processes ----


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        file.write(f"\n$ {' '.join(command)}\n".encode())
        file.flush()
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the command with SIGKILL, with all that it has started, as a power cut does."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        family = []
    process.kill()
    process.wait()
    for child in family:
        try:
            child.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(family, timeout=30)


@dataclass
class Outcome:
    """The result of one kind."""

    name: str
    seconds: float = 0.0
    kills: int = 0
    full: int = 0
    runs: int = 0
    begun_anew: int = 0  # killed before there was anything to resume from, and told so
    not_compared: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def line(self) -> str:
        return (
            f"{self.name}: {self.kills} kills, {self.full} full disks, {self.runs} runs compared, "
            f"{self.begun_anew} begun anew, {len(self.failures)} failures, {self.seconds:.0f} s undisturbed, "
            f"{len(self.not_compared)} places differ between undisturbed runs {self.not_compared[:3]}"
        )


class Sweep:
    """Disturbed runs of one kind, and the undisturbed ones that they are compared with."""

    def __init__(self, kind: Kind, folder: Path, rng: random.Random):
        self.kind, self.folder, self.rng = kind, folder, rng
        self.log = folder / f"{kind.name}.log"
        self.outcome = Outcome(kind.name)
        folder.mkdir(parents=True, exist_ok=True)

    def undisturbed(self, times: int = 2) -> None:
        """Run so many times; what differs between two runs is not compared."""
        found = []
        for number in range(times):
            run = self.folder / f"{self.kind.name}-whole-{number}"
            began = time.monotonic()
            code = start(self.kind.command(run, False), self.log).wait(PATIENCE)
            self.outcome.seconds = time.monotonic() - began
            assert code == 0, self.tail()
            found.append(figures(self.kind, run))
        self.expected = found[0]
        self.outcome.not_compared = differences(found[0], found[-1])

    def disturb(self, wanted: int, disturbance: Callable[[subprocess.Popen[bytes], Path, float], bool]) -> int:
        """Start, disturb and start again until `wanted` disturbances have happened; compare every run that ends.

        Args:
            wanted: Number of disturbances.
            disturbance: Waits some seconds and disturbs the process; false where it had ended before.

        Returns:
            How many disturbances happened.
        """
        happened = 0
        while happened < wanted:
            run, again = self.new_run(), False
            while True:
                process = start(self.kind.command(run, again), self.log)
                is_last = happened >= wanted
                seconds = self.rng.uniform(0.02, 1.0) * self.outcome.seconds
                if is_last or not disturbance(process, run, seconds):
                    code = process.wait(PATIENCE)
                    if code == 0:
                        break
                    if self.kind.resume and "start without --resume" in self.tail():
                        self.outcome.begun_anew += 1
                        again = False
                        continue
                    self.outcome.failures.append(f"{run.name}: exit code {code}: {self.tail()[-600:]}")
                    break
                happened += 1
                again = bool(self.kind.resume)
            self.compare(run)
        return happened

    def new_run(self) -> Path:
        self.outcome.runs += 1
        return self.folder / f"{self.kind.name}-{self.outcome.runs}"

    def compare(self, run: Path) -> None:
        skipped = set(self.outcome.not_compared)
        wrong = [place for place in differences(figures(self.kind, run), self.expected) if place not in skipped]
        if wrong:
            self.outcome.failures.append(f"{run.name}: {len(wrong)} places differ: {wrong[:5]}")
        else:
            shutil.rmtree(run)

    def tail(self) -> str:
        return self.log.read_text(errors="replace").rpartition("\n$ ")[2]


def kill_after(process: subprocess.Popen[bytes], run: Path, seconds: float) -> bool:
    """Kill the process after so many seconds; false where it has ended before."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        kill(process)
        return True
    return False


class FullDisk:
    """Fills the file system of the run after so many seconds, waits until the command ends, and frees it again."""

    def __init__(self, sweep: Sweep):
        self.sweep = sweep

    def __call__(self, process: subprocess.Popen[bytes], run: Path, seconds: float) -> bool:
        try:
            process.wait(seconds)
            return False
        except subprocess.TimeoutExpired:
            pass
        filler = self.sweep.folder / "filler"
        fill(filler)
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            kill(process)
            self.sweep.outcome.failures.append(f"{run.name}: still ran {PATIENCE:g} s after its disk was full")
            return True
        finally:
            filler.unlink()
        tail = self.sweep.tail()
        if code == 0:  # nothing was left to write
            return False
        if "Traceback" in tail or not any(words in tail for words in MACHINE):
            self.sweep.outcome.failures.append(f"{run.name}: not one sentence: {tail[-1500:]}")
        if left := [str(path) for path in run.rglob("*.partial*") if path.is_file()]:
            self.sweep.outcome.failures.append(f"{run.name}: half-written files are left: {left}")
        return True


def fill(path: Path) -> None:
    """Write zeros to a file until the file system has no byte left."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


# ---- the command ----


def in_small_file_system(folder: Path) -> None:
    """Go on as a process for which `folder` is a small file system, so that it can be filled."""
    if os.environ.get(MOUNTED) == str(folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    mount = f'mount -t tmpfs -o size={FULL_SIZE} none "{folder}" && exec "$@"'
    command = ["unshare", "-Urm", "sh", "-c", mount, "sh", sys.executable, "-m", "tests.chaos.kill_sweep"]
    os.execvpe("unshare", [*command, *sys.argv[1:]], os.environ | {MOUNTED: str(folder)})


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill commands at random moments and compare the resumed runs.")
    parser.add_argument("--kills", type=int, default=100, help="of all kinds together")
    parser.add_argument("--full-disks", type=int, default=0, help="of all kinds together")
    parser.add_argument("--only", nargs="*", default=[], help="kinds; all of them if none is named")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--micro", type=Path, help="folder with an earlier sweep's policy and data")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    out = args.out.absolute()
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
    if args.full_disks:
        in_small_file_system(out / "runs")
    micro = train_micro(out / "micro") if args.micro is None else Micro(args.micro / "data", args.micro / "cold/policy")
    chosen = [kind for name, kind in kinds(micro).items() if not args.only or name in args.only]
    failed = False
    for number, kind in enumerate(chosen):
        kills, full = (count // len(chosen) + (number < count % len(chosen)) for count in (args.kills, args.full_disks))
        sweep = Sweep(kind, out / "runs", random.Random(f"{args.seed} {kind.name}"))
        sweep.undisturbed()
        sweep.outcome.kills = sweep.disturb(kills, kill_after)
        sweep.outcome.full = sweep.disturb(full, FullDisk(sweep))
        print("\n  ".join([sweep.outcome.line(), *sweep.outcome.failures]), flush=True)
        failed |= bool(sweep.outcome.failures)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
