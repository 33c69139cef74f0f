"""Weights that travel between real processes by each transport, and what becomes of a transfer that hangs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import ray
import torch

from configs.load import ConfigError
from policy.weight_sync import LowRank
from rl.failures import Failure, failure_of
from rl.weight_transport import TRANSPORTS, WeightTransferError, check_transport, fetch, offer

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UCX_TLS", "tcp,self")  # shared memory may be read without its owner's doing
        ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=128 << 20)
        yield
        ray.shutdown()


@ray.remote(num_cpus=0)
class Reader:
    """A rollout worker, as far as weights go; its references come in lists, so that Ray does not fetch them."""

    def read(self, references: list[Any], seconds: float = 30.0) -> list[torch.Tensor]:
        """Dense weights as they are, and what low-rank ones would make of zeros."""
        arrived = fetch(references[0], seconds).values()
        return [each if isinstance(each, torch.Tensor) else each.added_to(torch.zeros(each.shape)) for each in arrived]


@ray.remote(num_cpus=0)
class Learner:
    """One that can be frozen."""

    def offer(self, transport: str) -> list[Any]:
        return [offer({"weight": torch.ones(1000, 1000)}, transport, "float32")]

    def pid(self) -> int:
        return os.getpid()


def start(kind: Any) -> Any:
    """An actor."""
    return kind.remote()


@pytest.fixture(scope="module")
def readers(local_ray: None) -> list[Any]:
    """Two that are up; they are not to be killed."""
    made = [start(Reader) for _ in range(2)]
    ray.get([each.__ray_ready__.remote() for each in made])
    return made


def weights() -> tuple[torch.Tensor, LowRank]:
    generator = torch.Generator().manual_seed(0)
    up_OR, down_RI = torch.randn(6, 2, generator=generator), torch.randn(2, 4, generator=generator)
    return torch.randn(300, 200, generator=generator), LowRank(up_OR, down_RI, 1.5)


def offered(transport: str, dtype: str = "float32") -> list[Any]:
    """References to `weights()`, which the learner has changed in place meanwhile."""
    dense, low = weights()
    reference = offer({"dense": dense, "low": low}, transport, dtype)
    dense += 1
    low.up_OR.mul_(2)
    return [reference]


def arrives(reader: Any, references: list[Any]) -> bool:
    dense, low = weights()
    expected = (dense, low.added_to(torch.zeros(low.shape)))
    return all(map(torch.equal, ray.get(reader.read.remote(references)), expected))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_arrives_is_what_was_offered_however_often_it_is_fetched(transport: str, readers: list[Any]):
    references = offered(transport)
    assert all(arrives(reader, references) for reader in (*readers, readers[0]))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_weights_travel_as_the_engine_holds_them_and_adapters_as_they_are(transport: str, readers: list[Any]):
    dense, low = ray.get(readers[0].read.remote(offered(transport, "bfloat16")))
    assert torch.equal(dense, weights()[0].bfloat16()) and torch.equal(low, weights()[1].added_to(torch.zeros(6, 4)))


def test_a_reader_that_dies_holds_up_no_other_and_a_late_one_gets_the_same(readers: list[Any]):
    references = offered("nixl")
    doomed, late = start(Reader), start(Reader)
    assert arrives(doomed, references)
    ray.kill(doomed)
    assert arrives(readers[0], references) and arrives(late, references)
    assert arrives(late, offered("nixl"))


def test_a_learner_that_hangs_is_an_error_with_a_cause(readers: list[Any]):
    learner = start(Learner)
    pid: Any = ray.get(learner.pid.remote())
    ray.get(readers[0].read.remote(ray.get(learner.offer.remote("nixl"))))
    references = ray.get(learner.offer.remote("nixl"))
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(WeightTransferError, match=r"not arrive within 3 s \(sampler.transfer_seconds\)") as raised:
            ray.get(readers[0].read.remote(references, 3.0))
        assert failure_of(raised.value) is Failure.ENGINE, "the worker is replaced"
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_transport_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rl.weight_transport.find_spec", lambda name: None)
    check_transport("object_store")
    with pytest.raises(ConfigError, match="nixl needs the package nixl: pip install nixl"):
        check_transport("nixl")
