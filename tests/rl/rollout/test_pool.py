"""Real Ray actors that are killed, raise, freeze or are slow: every request still comes back exactly once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray

from configs.load import ConfigError
from configs.schema import RunConfig
from env.errors import CheckpointError
from env.types import StopReason, Trajectory
from rl.rollout.dispatcher import Capacity
from rl.rollout.failures import Failure
from rl.rollout.pool import Pool
from rl.rollout.request import RolloutRequest
from tests.helpers.stand_in import Named, StandInWorker, group

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False, object_store_memory=128 << 20)
    yield
    ray.shutdown()


class Setting:
    """Builds pools and remembers them, so that they can be closed."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.pools: list[Pool] = []

    def pool(self, workers: int = 2, running: int = 4, seconds: dict | None = None, **sampler) -> Pool:
        config = RunConfig()
        config = replace(config, sampler=replace(config.sampler, **sampler), grpo=replace(config.grpo, max_attempts=3))
        arguments = (running, str(self.folder), Named(seconds or {}))
        self.pools.append(Pool(config, StandInWorker, arguments, workers, Capacity(running, queued=4)))
        return self.pools[-1]


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    made = Setting(tmp_path)
    yield made
    for pool in made.pools:
        pool.close()


def answered(trajectories: list[Trajectory]) -> list[str]:
    return sorted(item.trajectory_id for item in trajectories if item.stop_reason is StopReason.ANSWERED)


def names(groups: list[list[RolloutRequest]]) -> list[str]:
    return sorted(item.trajectory_id for each in groups for item in each)


def test_every_request_comes_back_once_and_both_workers_did_some(setting: Setting):
    groups = [group(f"t{number}") for number in range(12)]
    pool = setting.pool()
    assert answered(list(pool.run(groups, ""))) == names(groups)
    pool.pids()  # by now both have started
    pool.take_stats()
    assert answered(list(pool.run(groups, ""))) == names(groups), "a second time, the same names"
    assert {worker: stats.turns > 0 for worker, stats in pool.take_stats().items()} == {0: True, 1: True}
    assert pool.take_stats() == {}


@pytest.mark.parametrize(
    ("deed", "failure"), [("kill", Failure.DIED), ("raise", Failure.ENGINE), ("exhaust", Failure.ENGINE)]
)
def test_requests_of_a_failed_worker_are_run_by_others(setting: Setting, deed: str, failure: Failure):
    groups = [group("a"), group(f"{deed} 1"), group("b"), group("c")]
    pool = setting.pool()
    assert answered(list(pool.run(groups, ""))) == names(groups)
    assert pool.failures == {failure: 1}


def test_a_frozen_worker_is_killed_and_replaced(setting: Setting):
    groups = [group("a"), group("freeze 1"), group("b")]
    pool = setting.pool(stall_seconds=4.0)
    before = [psutil.Process(pid) for pid in pool.pids()]
    assert answered(list(pool.run(groups, ""))) == names(groups)
    assert pool.failures == {Failure.STUCK: 1}
    gone, alive = psutil.wait_procs(before, timeout=20)
    assert (len(gone), len(alive)) == (1, 1)


def test_an_episode_that_always_breaks_its_engine_is_given_up_and_takes_no_other_with_it(setting: Setting):
    groups = [group("a"), group("raise 99"), group("b")]
    pool = setting.pool(workers=1, running=8)
    trajectories = list(pool.run(groups, ""))
    (broken,) = [item for item in trajectories if item.stop_reason is StopReason.ERROR]
    assert broken.trajectory_id == "0/raise 99/0"
    assert "the engine is broken" in broken.error
    assert answered(trajectories) == [name for name in names(groups) if name != broken.trajectory_id]
    assert pool.failures == {Failure.ENGINE: 3}


def test_a_late_episode_ends_in_an_error_and_does_not_appear_in_the_next_run(setting: Setting):
    seconds = {"0/slow/1": (6.0,)}
    pool = setting.pool(seconds=seconds)
    list(pool.run([group("up")], ""))
    started = time.monotonic()
    trajectories = list(pool.run([group("slow"), group("a")], "", seconds=2.0))
    assert time.monotonic() - started < 5
    (late,) = [item for item in trajectories if item.stop_reason is StopReason.ERROR]
    assert late.trajectory_id == "0/slow/1"
    assert "grpo.max_rollout_seconds (2)" in late.error
    again = list(pool.run([group("b")], ""))
    assert answered(again) == names([group("b")])


def test_a_run_that_was_left_unfinished_does_not_disturb_the_next(setting: Setting):
    groups = [group(f"t{number}") for number in range(6)]
    pool = setting.pool(seconds={"0/t5/3": (1.0,)})
    first = pool.run(groups, "")
    next(first)
    first.close()
    trajectories = list(pool.run(groups, ""))
    assert Counter(item.trajectory_id for item in trajectories) == Counter(names(groups))


def test_our_own_errors_are_raised_as_they_are(setting: Setting):
    with pytest.raises(CheckpointError, match=r"^lm_head.weight is missing$"):
        list(setting.pool().run([group("a")], "lm_head.weight is missing"))


def test_more_workers_than_the_cluster_has_cpus_for_are_refused(setting: Setting):
    with pytest.raises(
        ConfigError, match=r"can run 9 workers .* with {'CPU': 1} each, but it could not within 3 s.*{'CPU': 8.0}"
    ):
        setting.pool(workers=9, load_seconds=3.0)
    assert len(setting.pool(workers=8).pids()) == 8, "the attempt keeps no resources"


def test_workers_that_do_not_start_end_the_run_with_the_reason(setting: Setting):
    with pytest.raises(RuntimeError, match=r"no worker has started in 3 attempts(.|\n)*does not load"):
        list(setting.pool(workers=1, running=0).run([group("a")], ""))
