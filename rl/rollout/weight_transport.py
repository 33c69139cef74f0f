"""Transport of weights from the learner to rollout workers: offered once, fetched by each worker that needs them.

    object_store   one copy in the shared memory of each node, which its workers read in place. It works on any machine
                   and needs no installation.
    nixl           from the learner's memory, GPU or host, directly into the worker's, over the fastest connection (CUDA
                   IPC, InfiniBand, shared memory, TCP). It is Ray Direct Transport (alpha in Ray 2.60) with the package
                   nixl, whose progress thread keeps one core of the learner and of each worker busy.

Both are one-sided. vLLM's own NCCL engine, in contrast, broadcasts in a group of fixed members: a worker that dies
blocks the others, and a worker that starts late misses the broadcast.
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
    """A transfer of weights that took too long. The worker that waited for it is replaced."""


def check_transport(transport: str) -> None:
    """Raise ConfigError for an unknown transport, or one whose package is not installed."""
    if transport not in TRANSPORTS:
        raise ConfigError(f"grpo.weight_transport: unknown {transport!r}; known are {', '.join(TRANSPORTS)}")
    if transport == "nixl" and find_spec("nixl") is None:
        raise ConfigError("grpo.weight_transport: nixl needs the package nixl: pip install nixl, or set object_store")


def offer(weights: WeightUpdate, transport: str, dtype: str) -> Any:
    """Return a reference to a copy of the weights; the learner may change its own at once.

    Args:
        weights: The trained weights; for LoRA, the two factors.
        transport: One of TRANSPORTS.
        dtype: Name of the engine's dtype. Dense weights are sent in it. Factors are sent as they are: the engine adds
            their product to its weights before it rounds.

    Returns:
        A Ray object reference for `fetch`.
    """
    import torch  # not at the top: a worker must set the number of its threads first

    rounded = {
        name: value.to(getattr(torch, dtype)) if isinstance(value, torch.Tensor) else value
        for name, value in weights.items()
    }
    if transport == "nixl":
        copies = {name: value.clone() if value is weights[name] else value for name, value in rounded.items()}
        return ray.put(copies, _tensor_transport="nixl")
    return ray.put(
        {name: _Shared.of(value) if isinstance(value, torch.Tensor) else value.cpu() for name, value in rounded.items()}
    )


def fetch(reference: Any, seconds: float) -> WeightUpdate:
    """Return the offered weights, which are read-only. WeightTransferError if they take longer than `seconds`."""
    limit = f"{seconds:g} s (sampler.transfer_seconds)"
    try:
        arrived: dict[str, Any] = ray.get(reference, timeout=seconds)
    except GetTimeoutError as error:
        raise WeightTransferError(f"the learner's weights did not arrive within {limit}: {error}") from error
    except ObjectFetchTimedOutError as error:  # Ray's own limit for nixl may be shorter: 60 s by default
        raise WeightTransferError(
            f"the learner's weights did not arrive within Ray's own limit, which is shorter than {limit}; to wait "
            f"longer set RAY_rdt_fetch_fail_timeout_milliseconds (default 60,000): {error}"
        ) from error
    return {name: value.tensor() if isinstance(value, _Shared) else value for name, value in arrived.items()}


@dataclass(frozen=True)
class _Shared:
    """A tensor as a NumPy array of bytes, because Ray's store shares only NumPy arrays without a copy per reader."""

    bytes_N: np.ndarray
    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> _Shared:
        """Copy a tensor's bytes to the CPU."""
        import torch

        flat = tensor.detach().cpu().contiguous().reshape(-1)
        return cls(flat.view(torch.uint8).numpy(), tensor.dtype, tuple(tensor.shape))

    def tensor(self) -> Tensor:
        """Return a view of the store's memory, which is read-only."""
        import torch

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            flat = torch.from_numpy(self.bytes_N)
        return flat.view(self.dtype).reshape(self.shape)
