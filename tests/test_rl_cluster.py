"""Starting a local Ray: on a machine that is too busy at first, and with room for the weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import ray

from configs.schema import PolicyConfig, RunConfig
from rl.cluster import LEAST_STORE, STARTS, VERSIONS, connect_ray

LATE = "The current node timed out during startup."


class BusyMachine:
    """`ray.init` that leaves a process behind and gives up, so many times."""

    def __init__(self, failures: int, problem: str = LATE):
        self.failures = failures
        self.problem = problem
        self.left: list[subprocess.Popen[bytes]] = []

    def init(self, **settings: object) -> None:
        assert settings["address"] == "local"
        self.left.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        if len(self.left) <= self.failures:
            raise Exception(self.problem)


@pytest.mark.parametrize("failures", [0, 1, STARTS - 1])
def test_a_late_start_is_tried_again_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, failures: int):
    machine = BusyMachine(failures)
    monkeypatch.setattr(ray, "init", machine.init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    connect_ray(RunConfig())
    *failed, last = machine.left
    assert len(failed) == failures
    for process in failed:
        assert process.wait(10) != 0
    assert psutil.pid_exists(last.pid) and last.poll() is None
    last.kill()
    last.wait()


@pytest.mark.parametrize(("failures", "problem", "starts"), [(STARTS, LATE, STARTS), (1, "no such setting", 1)])
def test_what_another_try_does_not_mend_is_raised(
    monkeypatch: pytest.MonkeyPatch, failures: int, problem: str, starts: int
):
    machine = BusyMachine(failures, problem)
    monkeypatch.setattr(ray, "init", machine.init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(Exception, match=problem):
        connect_ray(RunConfig())
    assert len(machine.left) == starts
    for process in machine.left:
        process.kill()
        process.wait()


def test_the_object_store_has_room_for_the_weights_that_travel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "vlm").mkdir()
    for shard in range(2):
        with (tmp_path / f"vlm/model-{shard}.safetensors").open("wb") as file:
            file.truncate(1 << 30)
    asked: list[object] = []
    monkeypatch.setattr(ray, "init", lambda **settings: asked.append(settings["object_store_memory"]))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for policy in (PolicyConfig(path=str(tmp_path)), PolicyConfig(path=str(tmp_path), lora_rank=8), PolicyConfig()):
        connect_ray(RunConfig(policy=policy))
    assert asked == [VERSIONS << 31, LEAST_STORE, LEAST_STORE]
