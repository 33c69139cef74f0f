"""Metrics of the workers: by hand, and as a Prometheus server would read them from Ray."""

from __future__ import annotations

import re
import socket
import time
import urllib.request

import pytest
import ray

from rl.rollout.episode_worker import WorkerStats
from rl.rollout.failures import Failure
from rl.rollout.metrics import WorkerGauges, worker_metrics

STATS = {
    0: WorkerStats(turns=6, prompt_tokens=100, cached_tokens=80, written_tokens=50, seconds=2.0, most_live=9),
    3: WorkerStats(
        turns=2, prompt_tokens=100, cached_tokens=0, written_tokens=10, seconds=4.0, most_live=1, restarts=1
    ),
}
SPEED = r'ray_videoseg_worker_tokens_per_s{[^}]*worker="(\d+)"[^}]*} (\S+)'


def test_metrics_of_two_workers():
    metrics = worker_metrics(STATS, {Failure.DIED: 1})
    assert metrics["rollout/failures_died"] == 1
    assert metrics["rollout/failures_stuck"] == 0
    assert metrics["rollout/cached_tokens/share"] == 0.4
    assert metrics["worker_0/cached_tokens/share"] == 0.8
    assert metrics["worker_0/tokens_per_s"] == 25
    assert metrics["worker_3/queue/max"] == 1
    assert metrics["worker_3/restarts"] == 1


def test_no_work_is_no_division_by_zero():
    assert worker_metrics({}, {})["rollout/cached_tokens/share"] == 0


@pytest.mark.timeout(180)
def test_ray_exports_the_gauges():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = {"metrics_report_interval_ms": 500}
    ray.init("local", num_cpus=1, include_dashboard=False, _metrics_export_port=port, _system_config=config)
    try:
        WorkerGauges().show(STATS)
        found: dict[str, float] = {}
        deadline = time.monotonic() + 90
        while len(found) < 2 and time.monotonic() < deadline:
            time.sleep(0.5)
            try:
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
            except OSError:
                continue  # the exporter starts later than Ray
            found = {
                worker: float(value)
                for worker, value in re.findall(
                    r'ray_videoseg_worker_tokens_per_s{[^}]*worker="(\d+)"[^}]*} (\S+)', page
                )
            }
    finally:
        ray.shutdown()
    assert found == {"0": 25.0, "3": 2.5}
