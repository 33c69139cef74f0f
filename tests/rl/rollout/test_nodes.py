"""Two nodes, one of which is lost while its worker runs episodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

from configs.schema import RunConfig
from env.types import StopReason
from rl.rollout.dispatcher import Capacity
from rl.rollout.failures import Failure
from rl.rollout.pool import Pool
from tests.helpers.stand_in import Named, StandInWorker, group

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Start a head node without CPUs for workers, and connect this process to it."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def test_workers_are_spread_and_a_lost_node_loses_no_episode(cluster: Cluster, tmp_path: Path):
    nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    groups = [group(f"t{number}") for number in range(8)]
    seconds = {item.trajectory_id: (1.0,) for each in groups for item in each}
    config = RunConfig()
    config = replace(config, grpo=replace(config.grpo, max_attempts=3))
    pool = Pool(config, StandInWorker, (2, str(tmp_path), Named(seconds)), 2, Capacity(running=2, queued=2))
    pool.pids()
    (places,) = placement_group_table().values()
    assert len(set(places["bundles_to_node_id"].values())) == 2
    running = pool.run(groups, "")
    finished = [next(running)]
    cluster.remove_node(nodes[0], allow_graceful=False)
    finished += list(running)
    pool.close()
    assert pool.failures.keys() == {Failure.DIED}, (
        "at least once: Ray may start another worker on the node before it notices the loss"
    )
    assert sorted(item.trajectory_id for item in finished) == sorted(
        item.trajectory_id for each in groups for item in each
    )
    assert {item.stop_reason for item in finished} == {StopReason.ANSWERED}
