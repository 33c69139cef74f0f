"""Weights sent between real processes by each transport, and a transfer that hangs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import ray
import torch

from configs.load import ConfigError
from rl.rollout.failures import Failure, failure_of
from rl.rollout.weight_transport import TRANSPORTS, WeightTransferError, check_transport
from tests.helpers.transport_parts import Learner, Reader, weights

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UCX_TLS", "tcp,self")  # over shared memory a transfer works even while its sender is stopped
        ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=128 << 20)
        yield
        ray.shutdown()


def start(kind: type[Learner | Reader]) -> Any:
    """Start an actor."""
    return ray.remote(num_cpus=0)(kind).remote()


@pytest.fixture(scope="module")
def learner(local_ray: None) -> Any:
    return start(Learner)


@pytest.fixture
def reader(local_ray: None) -> Iterator[Any]:
    made = start(Reader)
    yield made
    ray.kill(made)


def freeze(pid: int) -> None:
    """Stop a process, and wait until all its threads have stopped: NIXL's may run on for a while after the signal."""
    os.kill(pid, signal.SIGSTOP)
    threads = psutil.Process(pid).threads()
    while any(psutil.Process(thread.id).status() != psutil.STATUS_STOPPED for thread in threads):
        time.sleep(0.01)


def arrives(reader: Any, references: list[Any], dtype: torch.dtype = torch.float32) -> bool:
    dense, low = weights()
    expected = (dense.to(dtype), low.added_to(torch.zeros(low.shape)))
    return all(map(torch.equal, ray.get(reader.read.remote(references)), expected))


def test_fetched_weights_equal_the_offered_ones_in_the_precision_of_the_engine(learner: Any, reader: Any):
    """However often they are fetched, and whatever the learner has done to its weights since."""
    for transport in TRANSPORTS:
        references = ray.get(learner.offer.remote(transport, "float32"))
        assert arrives(reader, references) and arrives(reader, references)
        assert arrives(reader, ray.get(learner.offer.remote(transport, "bfloat16")), torch.bfloat16)


def test_a_reader_that_dies_blocks_no_other_and_a_learner_that_hangs_is_an_error_with_a_cause(
    learner: Any, reader: Any
):
    doomed = start(Reader)
    references = ray.get(learner.offer.remote("nixl", "float32"))
    assert arrives(doomed, references)
    ray.kill(doomed)
    assert arrives(reader, references), "a reader that starts late gets the same weights"
    references = ray.get(learner.offer.remote("nixl", "float32"))
    pid: Any = ray.get(learner.pid.remote())
    freeze(pid)
    try:
        with pytest.raises(WeightTransferError, match=r"not arrive within 3 s \(sampler.transfer_seconds\)") as raised:
            ray.get(reader.read.remote(references, 3.0))
        assert failure_of(raised.value) is Failure.ENGINE, "the worker is replaced"
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_transport_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rl.rollout.weight_transport.find_spec", lambda name: None)
    check_transport("object_store")
    with pytest.raises(ConfigError, match="nixl needs the package nixl: pip install nixl"):
        check_transport("nixl")
