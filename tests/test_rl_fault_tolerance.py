"""A killed worker and a killed driver: a run that was torn apart twice equals one that was left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from env.frames import FrameCache
from env.store import TrajectoryStore
from env.types import Trajectory
from policy.build import load_policy
from rl.learner import LocalLearner
from tests.rl_parts import Micro, read_lines

STEPS = 4
SAVE_EVERY = 2
OVERRIDES = (
    f"grpo.steps={STEPS}",
    f"grpo.save_every={SAVE_EVERY}",
    "grpo.tasks_per_step=3",
    "grpo.group_size=4",
    "grpo.lr=3.0e-4",
    "grpo.max_batch_tokens=2048",
    "sampler.max_sequences=4",  # three waves of conversations: a kill after the first finished one leaves most undone
    "env.max_seconds=3600",
)
PATIENCE = 400  # seconds to wait for something to happen; only a hang takes that long

pytestmark = pytest.mark.timeout(1200)  # several engines are started, one after the other


@dataclass
class Run:
    """One `python -m rl.grpo` in its own process group."""

    micro: Micro
    run_dir: Path

    def start(self, *flags: str) -> subprocess.Popen[bytes]:
        sets = [word for text in (*self.micro.overrides(self.run_dir), *OVERRIDES) for word in ("--set", text)]
        log = (self.run_dir.parent / f"{self.run_dir.name}.log").open("ab")
        command = [sys.executable, "-m", "rl.grpo", "--config", "smoke", *sets, *flags]
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def finish(self, process: subprocess.Popen[bytes]) -> None:
        assert process.wait(PATIENCE) == 0, (self.run_dir.parent / f"{self.run_dir.name}.log").read_text()[-4000:]

    def pending(self, step: int) -> int:
        """Trajectories of `step` that the driver has received so far."""
        path = self.run_dir / "pending" / "trajectories.jsonl"
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


def kill_worker(driver: subprocess.Popen[bytes]) -> None:
    workers = [
        child
        for child in psutil.Process(driver.pid).children(recursive=True)
        if "RolloutWorker" in " ".join(child.cmdline())
    ]
    assert len(workers) == 1
    os.kill(workers[0].pid, signal.SIGKILL)


def kill_driver(driver: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the whole process group; Ray's own processes follow, and the test does not leave any behind."""
    family = psutil.Process(driver.pid).children(recursive=True)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    for process in alive:
        process.kill()


@pytest.fixture(scope="module")
def runs(micro: Micro, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Run]]:
    """(whole, torn). The torn run loses its worker in the rollout of step 1. In the rollout of step 3, when step 2 is
    trained but not in a checkpoint, it loses its driver, and is resumed."""
    folder = tmp_path_factory.mktemp("fault")
    whole, torn = Run(micro, folder / "whole"), Run(micro, folder / "torn")
    processes = [whole.start(), torn.start()]
    try:
        wait_until(lambda: torn.pending(1) >= 1, processes[1])
        kill_worker(processes[1])
        wait_until(lambda: torn.pending(3) >= 1, processes[1])
        kill_driver(processes[1])
        assert [row["step"] for row in torn.metrics()] == [0, 1, 2], "step 2 was trained"
        processes.append(torn.start("--resume"))
        torn.finish(processes[2])
        whole.finish(processes[0])
        yield whole, torn
    finally:
        for process in processes:
            if process.poll() is None:
                kill_driver(process)


def test_no_trajectory_is_lost_or_doubled(runs: tuple[Run, Run]):
    whole, torn = ([trajectory.trajectory_id for trajectory in run.trajectories()] for run in runs)
    assert len(whole) == len(set(whole)) == STEPS * 3 * 4
    assert torn == whole


def test_every_turn_is_written_by_the_weights_of_its_step(runs: tuple[Run, Run]):
    for run in runs:
        versions = {(item.step, turn.action.weights_version) for item in run.trajectories() for turn in item.turns}
        assert versions == {(step, step) for step in range(STEPS)}


def test_steps_tasks_and_losses_equal_those_of_the_whole_run(runs: tuple[Run, Run]):
    whole, torn = (run.metrics() for run in runs)
    assert [row["step"] for row in torn] == [row["step"] for row in whole] == list(range(STEPS))
    assert any(abs(row["loss/policy"]) > 1e-4 for row in whole[1:]), "equal rewards would prove nothing"
    for ours, theirs in zip(torn, whole, strict=True):
        for name in ("loss/policy", "loss/masks", "reward/total/mean", "optim/grad_norm", "policy/entropy"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-5), (theirs["step"], name)
        assert ours["optim/learning_rate"] == theirs["optim/learning_rate"]
    tasks = [[(item.step, item.task.task_id) for item in run.trajectories()] for run in runs]
    assert tasks[0] == tasks[1]


def test_a_reborn_worker_has_the_newest_weights(runs: tuple[Run, Run], micro: Micro):
    _, torn = runs
    assert torn.metrics()[1]["rollout/failures_died"] == 1
    assert max(row["rollout/mismatch/max"] for row in torn.metrics()) <= 1e-4
    # Had it kept the weights that it was built from, the difference would be this:
    written = [item for item in torn.trajectories() if item.step == 1]
    learner = LocalLearner(load_policy(micro.policy), micro.config(torn.run_dir), FrameCache(), FrameCache())
    learner.score(written)
    differences = [
        abs(old - sampled)
        for item in written
        for turn in item.turns
        for old, sampled in zip(turn.old_logprobs, turn.action.logprobs, strict=True)
    ]
    assert max(differences) > 1e-2
