"""What the ranks of a learner do together, through torch's process group.

Each keeps all weights and their gradients, and a share of the optimizer's state (ZeRO stage 1). Nothing is exchanged
within a forward or backward pass, so that ranks may run as many of them, and of such shapes, as their work asks for.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from datetime import timedelta

import ray
import torch
import torch.distributed as dist

SECONDS = 600.0  # that a rank waits for the others where all act at once


def free_address() -> str:
    """host:port of this node where ranks can meet."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"


def init_process_group(address: str, rank: int, count: int, device: torch.device) -> None:
    """Become rank `rank` of `count`; returns once all are there."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")  # else a late rank is told of by killing this process
    limit = timedelta(seconds=SECONDS)
    dist.init_process_group(backend, f"tcp://{address}", world_size=count, rank=rank, timeout=limit)


def destroy_process_group() -> None:
    dist.destroy_process_group()


@torch.no_grad()
def take_from_first(module: torch.nn.Module) -> None:
    """Give every rank the weights and buffers of rank 0."""
    for tensor in module.state_dict().values():
        dist.broadcast(tensor, src=0)


def add_up_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Sum over all ranks. What has no gradient on any of them stays without one, and so the optimizer skips it."""
    device = parameters[0].device
    has_N = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8, device=device)
    dist.all_reduce(has_N, op=dist.ReduceOp.MAX)
    calls = []
    for parameter, has in zip(parameters, has_N.tolist(), strict=True):
        if has:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            calls.append(dist.all_reduce(parameter.grad, async_op=True))
    for call in calls:
        call.wait()


def balance(sizes: Sequence[int], count: int) -> list[int]:
    """Which of `count` ranks gets each item, so that all have about as much: the largest first, to who has least."""
    loads, owners = [0] * count, [0] * len(sizes)
    for item in sorted(range(len(sizes)), key=lambda item: -sizes[item]):
        owners[item] = loads.index(min(loads))
        loads[owners[item]] += sizes[item]
    return owners
