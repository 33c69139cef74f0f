"""How weights get from the learner to rollout workers: they are offered once, and who needs a version fetches it.

    object_store   one copy in the shared memory of each node, which its workers read in place: any machine, nothing to
                   install
    nixl           straight out of the learner's memory, GPU or host, into the worker's, by whatever joins the two (CUDA
                   IPC, InfiniBand, shared memory, TCP); Ray Direct Transport, alpha in Ray 2.60, with the package nixl,
                   whose progress thread keeps one core of the learner and of each worker busy: not for a laptop

Both are one-sided. vLLM's own NCCL engine is a broadcast in a group of fixed members instead: a worker that dies in it
holds up the others, and one that is born late has missed it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, ObjectFetchTimedOutError

from configs.load import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from policy.engines.weight_update import WeightUpdate

TRANSPORTS = ("object_store", "nixl")


class WeightTransferError(Exception):
    """Weights that did not arrive in time. Not ours to mend: the worker that waited is replaced."""


def check_transport(transport: str) -> None:
    """ConfigError where this machine lacks what `transport` needs."""
    if transport == "nixl" and find_spec("nixl") is None:
        raise ConfigError("grpo.weight_transport: nixl needs the package nixl: pip install nixl, or take object_store")


def offer(moved: WeightUpdate, transport: str, dtype: str) -> Any:
    """A reference to these weights as they are now; the learner may change its own at once.

    They travel in `dtype`, that of the engine, but for the factors of adapters, which are added up before.
    """
    import torch  # not above: a worker sets the number of its threads first

    rounded = {
        name: value.to(getattr(torch, dtype)) if isinstance(value, torch.Tensor) else value
        for name, value in moved.items()
    }
    if transport == "nixl":
        copies = {name: value.clone() if value is moved[name] else value for name, value in rounded.items()}
        return ray.put(copies, _tensor_transport="nixl")
    return ray.put(
        {name: _Shared.of(value) if isinstance(value, torch.Tensor) else value.cpu() for name, value in rounded.items()}
    )


def fetch(reference: Any, seconds: float) -> WeightUpdate:
    """What was offered, to be read only; WeightTransferError where it is not here after `seconds`."""
    limit = f"{seconds:g} s (sampler.transfer_seconds)"
    try:
        arrived: dict[str, Any] = ray.get(reference, timeout=seconds)
    except GetTimeoutError as error:
        raise WeightTransferError(f"the learner's weights did not arrive within {limit}: {error}") from error
    except ObjectFetchTimedOutError as error:  # Ray's own limit for nixl is shorter: 60 s, unless the variable is set
        raise WeightTransferError(
            f"the learner's weights did not arrive, though not yet {limit} have passed; Ray gives a transfer by nixl "
            f"RAY_rdt_fetch_fail_timeout_milliseconds (60,000): {error}"
        ) from error
    return {name: value.tensor() if isinstance(value, _Shared) else value for name, value in arrived.items()}


@dataclass(frozen=True)
class _Shared:
    """A tensor as Ray's store keeps it without a copy for each reader, which it does for NumPy's arrays alone."""

    bytes_N: np.ndarray
    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> _Shared:
        import torch

        flat = tensor.detach().cpu().contiguous().reshape(-1)
        return cls(flat.view(torch.uint8).numpy(), tensor.dtype, tuple(tensor.shape))

    def tensor(self) -> Tensor:
        """A view of the store's memory, which nobody may write to."""
        import torch

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            flat = torch.from_numpy(self.bytes_N)
        return flat.view(self.dtype).reshape(self.shape)
