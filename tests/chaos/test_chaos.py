"""Workers that are killed and frozen, and a driver that is killed: the disturbed run equals an undisturbed one.

The short plan runs with all tests. The long one (`make chaos`) takes 20 steps and loses a worker in every third.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from env.frames import FrameCache, FrameCaches
from env.store import TrajectoryStore
from env.types import Trajectory
from policy.videoseg.checkpoint import load_policy
from rl.learner.learner import LocalLearner
from tests.helpers.closeness import FORWARD
from tests.helpers.rl_parts import Micro, read_lines

SAVE_EVERY = 2
OVERRIDES = (
    f"grpo.save_every={SAVE_EVERY}",
    "grpo.tasks_per_step=3",
    "grpo.group_size=4",
    "grpo.lr=3.0e-4",
    "grpo.max_batch_tokens=2048",
    "grpo.max_attempts=9",  # on a busy machine a healthy worker may be silent for so long that it counts as stuck
    "sampler.stall_seconds=40",
    "sampler.max_sequences=4",  # a few episodes at a time: a kill after the first finished one leaves most unfinished
    "env.max_seconds=3600",
    "env.max_turn_seconds=3600",
)
PATIENCE = 400  # seconds to wait for an event; only a hang takes that long

pytestmark = pytest.mark.timeout(3600)  # several engines are started, one after the other


@dataclass(frozen=True)
class Plan:
    """The faults of a run, by step. A fault happens once a trajectory of the step has arrived."""

    steps: int
    faults: Mapping[int, str]  # kill or freeze the worker, or kill the driver, which is resumed


PLANS = {
    "short": Plan(4, {1: "kill", 2: "freeze", 3: "driver"}),
    "long": Plan(20, {**dict.fromkeys(range(1, 20, 3), "kill"), 8: "freeze", 15: "driver"}),
}


@dataclass
class Run:
    """One `python -m rl.grpo` in its own process group."""

    micro: Micro
    run_dir: Path
    steps: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *flags: str) -> subprocess.Popen[bytes]:
        texts = (*self.micro.overrides(self.run_dir), *OVERRIDES, f"grpo.steps={self.steps}")
        sets = [word for text in texts for word in ("--set", text)]
        log = self.log.open("ab")
        command = [sys.executable, "-m", "rl.grpo", "--config", "smoke", *sets, *flags]
        self.processes.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        return self.processes[-1]

    def finish(self, process: subprocess.Popen[bytes]) -> None:
        assert process.wait(PATIENCE) == 0, self.log.read_text()[-4000:]

    @property
    def log(self) -> Path:
        return self.run_dir.with_suffix(".log")

    def pending(self, step: int) -> int:
        """Return how many trajectories of `step` the driver has received so far."""
        path = self.run_dir / "pending" / f"step-{step:06d}" / "trajectories.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return sum(f'"step":{step},' in line for line in lines if line.endswith("\n"))

    def trajectories(self) -> list[Trajectory]:
        return list(TrajectoryStore(self.run_dir / "trajectories").read())

    def metrics(self) -> list[dict]:
        return read_lines(self.run_dir / "metrics.jsonl")


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def signal_worker(driver: subprocess.Popen[bytes], number: signal.Signals) -> None:
    workers = [
        child
        for child in psutil.Process(driver.pid).children(recursive=True)
        if "RolloutWorker" in " ".join(child.cmdline())
    ]
    assert len(workers) == 1
    os.kill(workers[0].pid, number)


def kill_driver(driver: subprocess.Popen[bytes]) -> None:
    """Kill the whole process group with SIGKILL; wait until Ray's own processes have ended, or kill them too."""
    children = psutil.Process(driver.pid).children(recursive=True)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    for process in alive:
        process.kill()


def disturb(run: Run, faults: Mapping[int, str]) -> subprocess.Popen[bytes]:
    """Start the run and cause the planned faults; return the process that finishes it."""
    process = run.start()
    for step, fault in sorted(faults.items()):
        wait_until(lambda step=step: run.pending(step) >= 1, process)
        if fault == "driver":
            kill_driver(process)
            assert [row["step"] for row in run.metrics()] == list(range(step)), "the step before was trained"
            process = run.start("--resume")
        else:
            signal_worker(process, signal.SIGKILL if fault == "kill" else signal.SIGSTOP)
    return process


@pytest.fixture(scope="module", params=["short", pytest.param("long", marks=pytest.mark.slow)])
def plan(request: pytest.FixtureRequest) -> Plan:
    return PLANS[request.param]


@pytest.fixture(scope="module")
def runs(plan: Plan, micro: Micro, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Run]]:
    """Run both: (undisturbed, disturbed). The driver dies after a step that is trained but not in a checkpoint."""
    folder = tmp_path_factory.mktemp("chaos")
    whole, disturbed = Run(micro, folder / "whole", plan.steps), Run(micro, folder / "disturbed", plan.steps)
    try:
        left_alone = whole.start()
        disturbed.finish(disturb(disturbed, plan.faults))
        whole.finish(left_alone)
        yield whole, disturbed
    finally:
        for process in whole.processes + disturbed.processes:
            if process.poll() is None:
                kill_driver(process)


def test_no_trajectory_is_lost_or_repeated(plan: Plan, runs: tuple[Run, Run]):
    whole, disturbed = ([trajectory.trajectory_id for trajectory in run.trajectories()] for run in runs)
    assert len(whole) == len(set(whole)) == plan.steps * 3 * 4
    assert disturbed == whole


def test_every_turn_is_written_by_the_weights_of_its_step(plan: Plan, runs: tuple[Run, Run]):
    for run in runs:
        versions = {(item.step, turn.action.weights_version) for item in run.trajectories() for turn in item.turns}
        assert versions == {(step, step) for step in range(plan.steps)}


def test_steps_tasks_and_losses_equal_those_of_the_whole_run(plan: Plan, runs: tuple[Run, Run]):
    whole, disturbed = (run.metrics() for run in runs)
    assert [row["step"] for row in disturbed] == [row["step"] for row in whole] == list(range(plan.steps))
    assert any(abs(row["loss/policy"]) > 1e-4 for row in whole[1:]), (
        "with equal rewards the comparison would prove nothing"
    )
    for ours, theirs in zip(disturbed, whole, strict=True):
        for name in ("loss/policy", "loss/masks", "reward/total/mean", "optim/grad_norm", "policy/entropy"):
            assert ours[name] == pytest.approx(theirs[name], rel=FORWARD, abs=FORWARD), (theirs["step"], name)
        assert ours["optim/learning_rate"] == theirs["optim/learning_rate"]
    tasks = [[(item.step, item.task.task_id) for item in run.trajectories()] for run in runs]
    assert tasks[0] == tasks[1]


def test_a_replaced_worker_has_the_newest_weights(runs: tuple[Run, Run], micro: Micro):
    _, disturbed = runs
    assert disturbed.metrics()[1]["rollout/failures_died"] >= 1
    assert "is replaced (stuck)" in disturbed.log.read_text()
    assert max(row["rollout/mismatch/max"] for row in disturbed.metrics()) <= 1e-4
    # If it had kept the weights that it was built from, the difference would be this:
    written = [item for item in disturbed.trajectories() if item.step == 1]
    learner = LocalLearner(
        load_policy(micro.policy), micro.config(disturbed.run_dir), FrameCaches(FrameCache(), FrameCache())
    )
    learner.fill_logprobs_and_masks(written)
    differences = [
        abs(old - sampled)
        for item in written
        for turn in item.turns
        for old, sampled in zip(turn.old_logprobs, turn.action.logprobs, strict=True)
    ]
    assert max(differences) > 1e-2
