"""Start a local Ray: on a machine that is too busy at first, with space for weights, with the GPUs that are free."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch

from configs.schema import GrpoConfig, PolicyConfig, RunConfig, SamplerConfig
from rl.runtime.cluster import LEAST_STORE, STARTS, VERSIONS, VISIBLE, connect_ray
from tests.helpers.rank_parts import GpuHolder

LATE = "The current node timed out during startup."


class BusyMachine:
    """A `ray.init` that starts a process and then fails, a given number of times."""

    def __init__(self, failures: int, problem: str = LATE):
        self.failures = failures
        self.problem = problem
        self.started: list[subprocess.Popen[bytes]] = []

    def init(self, **settings: object) -> None:
        assert settings["address"] == "local"
        self.started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        if len(self.started) <= self.failures:
            raise Exception(self.problem)


@pytest.mark.parametrize("failures", [0, 1, STARTS - 1])
def test_a_late_start_is_tried_again_and_its_processes_are_ended(monkeypatch: pytest.MonkeyPatch, failures: int):
    machine = BusyMachine(failures)
    monkeypatch.setattr(ray, "init", machine.init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    connect_ray(RunConfig())
    *failed, last = machine.started
    assert len(failed) == failures
    for process in failed:
        assert process.wait(10) != 0
    assert psutil.pid_exists(last.pid) and last.poll() is None
    last.kill()
    last.wait()


@pytest.mark.parametrize(("failures", "problem", "starts"), [(STARTS, LATE, STARTS), (1, "no such setting", 1)])
def test_an_error_that_another_attempt_cannot_mend_is_raised(
    monkeypatch: pytest.MonkeyPatch, failures: int, problem: str, starts: int
):
    machine = BusyMachine(failures, problem)
    monkeypatch.setattr(ray, "init", machine.init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(Exception, match=problem):
        connect_ray(RunConfig())
    assert len(machine.started) == starts
    for process in machine.started:
        process.kill()
        process.wait()


def test_the_object_store_is_large_enough_for_the_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
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


OWN_GPUS = RunConfig(sampler=SamplerConfig(gpus_per_worker=1))
RANKS = RunConfig(sampler=SamplerConfig(gpus_per_worker=0.5), grpo=GrpoConfig(learner_ranks=2))


@pytest.mark.parametrize(("config", "visible", "others"), [(OWN_GPUS, "", {"1", "2"}), (RANKS, "5,3,7", {"3", "7"})])
def test_the_gpu_of_the_learner_is_not_given_to_workers(
    monkeypatch: pytest.MonkeyPatch, config: RunConfig, visible: str, others: set[str]
):
    """Real Ray, which is told of three GPUs and does not check them."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv(VISIBLE, raising=False)
    if visible:
        monkeypatch.setenv(VISIBLE, visible)
    try:
        connect_ray(config, has_gpu=True)
        assert os.environ.get(VISIBLE, "") == visible, "this process sees the same GPUs as before"
        assert ray.cluster_resources()["GPU"] == 2
        holder_class = ray.remote(num_gpus=1, num_cpus=1)(GpuHolder)
        holders: list[Any] = [holder_class.remote() for _ in others]
        assert set(ray.get([holder.sees.remote() for holder in holders])) == others
    finally:
        ray.shutdown()


@pytest.mark.parametrize(("gpus", "has_gpu"), [(0.5, True), (1.0, False)])
def test_a_gpu_that_is_shared_or_unused_is_left_to_ray(monkeypatch: pytest.MonkeyPatch, gpus: float, has_gpu: bool):
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(ray, "init", lambda **settings: asked.append(settings))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    connect_ray(RunConfig(sampler=SamplerConfig(gpus_per_worker=gpus)), has_gpu)
    assert asked[0]["num_gpus"] is None, "Ray counts the GPUs itself"
