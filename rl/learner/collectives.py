"""Collective operations of a learner's ranks, through torch's process group.

Every rank keeps all weights and their gradients, and a part of the optimizer's state (ZeRO stage 1, arXiv 1910.02054).
Nothing is exchanged within a forward or backward pass, so ranks may run different numbers of them, of any shapes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist

from env.errors import MachineError

SECONDS = 600.0  # that a rank waits for the others in a collective operation


def init_process_group(address: str, rank: int, count: int, device: torch.device) -> None:
    """Join the process group; returns once all ranks have.

    Args:
        address: host:port on the node of rank 0, the same for all ranks.
        rank: Number of this rank, from 0.
        count: Number of ranks.
        device: Where the weights are: NCCL connects GPUs, Gloo connects CPUs.

    Raises:
        MachineError: The port is taken, or the address cannot be reached.
    """
    backend = "nccl" if device.type == "cuda" else "gloo"
    # Without it NCCL's watchdog kills this process when another rank is late; with it the operation raises.
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    limit = timedelta(seconds=SECONDS)
    try:
        dist.init_process_group(backend, f"tcp://{address}", world_size=count, rank=rank, timeout=limit)
    except dist.DistNetworkError as error:  # the port was free a moment before
        reason = str(error).strip().partition("\n")[0]
        raise MachineError(f"{address}: the learner's ranks cannot meet there ({reason}); start again") from error


def destroy_process_group() -> None:
    """Leave the process group."""
    dist.destroy_process_group()


@torch.no_grad()
def take_from_first(module: torch.nn.Module) -> None:
    """Copy the weights and buffers of rank 0 to every rank. All ranks at once."""
    for tensor in module.state_dict().values():
        dist.broadcast(tensor, src=0)


def add_up_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Sum the gradients over all ranks. All ranks at once, with the same parameters in the same order.

    A parameter without a gradient on every rank stays without one, so the optimizer skips it.
    """
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


def is_true_on_all(flag: bool, device: torch.device) -> bool:
    """Return whether `flag` is true on every rank. All ranks at once; each gets the same answer."""
    flag_1 = torch.tensor([flag], dtype=torch.uint8, device=device)
    dist.all_reduce(flag_1, op=dist.ReduceOp.MIN)
    return bool(flag_1.item())


def balance(sizes: Sequence[int], count: int) -> list[int]:
    """Return the rank of each item, in [0, count), so that the ranks' sums of sizes are similar.

    Greedy: the largest item first, always to the rank with the smallest sum.
    """
    loads, owners = [0] * count, [0] * len(sizes)
    for item in sorted(range(len(sizes)), key=lambda item: -sizes[item]):
        owners[item] = loads.index(min(loads))
        loads[owners[item]] += sizes[item]
    return owners
