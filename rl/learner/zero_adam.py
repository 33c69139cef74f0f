"""AdamW whose state is divided among the ranks of a process group (ZeRO stage 1, arXiv 1910.02054).

Torch's own `ZeroRedundancyOptimizer` is experimental: it gathers states as Python lists of their bytes, and after
loading it keeps them twice on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from rl.learner.collectives import balance

STATE = ("step", "exp_avg", "exp_avg_sq")  # AdamW's state of a parameter that has had a gradient


class SharedAdam:
    """AdamW of which each rank updates the parameters that it owns and sends them to the others.

    `local` is this rank's own optimizer; a schedule sets its learning rate.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], lr: float, weight_decay: float):
        """Divide the parameters among the ranks, by their sizes.

        Args:
            parameters: The same parameters in the same order on every rank, at least as many as there are ranks.
            lr: Learning rate.
            weight_decay: AdamW's decoupled weight decay.
        """
        self._parameters = list(parameters)
        self._rank = dist.get_rank()
        self._owners = balance([parameter.numel() for parameter in parameters], dist.get_world_size())
        self._own = [at for at, owner in enumerate(self._owners) if owner == self._rank]
        self.local = torch.optim.AdamW([parameters[at] for at in self._own], lr, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self) -> None:
        """Update all parameters. All ranks at once, with the same gradients."""
        self.local.step()
        calls = [
            dist.broadcast(parameter, src=owner, async_op=True)
            for parameter, owner in zip(self._parameters, self._owners, strict=True)
        ]
        for call in calls:
            assert call is not None
            call.wait()

    def gather(self) -> dict[str, Any]:
        """Return the `state_dict` of an `AdamW` over all parameters, on the CPU. All ranks at once.

        It is whole on rank 0 and without parameter states on the others.
        """
        state: dict[int, dict[str, torch.Tensor]] = {}
        for at, (parameter, owner) in enumerate(zip(self._parameters, self._owners, strict=True)):
            local = self.local.state.get(parameter, {})
            if owner == self._rank == 0:
                found = {name: value.cpu() for name, value in local.items()}
            elif owner == self._rank:
                found = {}
                _send(local, parameter)
            else:
                found = _receive(parameter, owner) if self._rank == 0 else {}
            if found:
                state[at] = found
        (group,) = self.local.state_dict()["param_groups"]
        return {"state": state, "param_groups": [group | {"params": list(range(len(self._parameters)))}]}

    def load(self, whole: dict[str, Any]) -> None:
        """Take this rank's part of the state of an `AdamW` over all parameters, as `gather` returns it."""
        state = {local: whole["state"][at] for local, at in enumerate(self._own) if at in whole["state"]}
        (group,) = whole["param_groups"]
        groups = [group | {"params": list(range(len(self._own)))}]
        self.local.load_state_dict({"state": state, "param_groups": groups})


def _send(state: dict[str, torch.Tensor], parameter: torch.nn.Parameter) -> None:
    """Send a parameter's state to rank 0: the number of its entries, then the entries in the order of STATE."""
    dist.send(torch.tensor([len(state)], device=parameter.device), dst=0)
    for name in STATE if state else ():
        dist.send(state[name].to(parameter.device, torch.float32).contiguous(), dst=0)


def _receive(parameter: torch.nn.Parameter, owner: int) -> dict[str, torch.Tensor]:
    """Receive what `_send` sends on rank `owner`."""
    num_entries = torch.zeros(1, dtype=torch.long, device=parameter.device)
    dist.recv(num_entries, src=owner)
    found = {}
    for name in STATE if num_entries.item() else ():
        value = torch.empty((), device=parameter.device) if name == "step" else torch.empty_like(parameter)
        dist.recv(value, src=owner)
        found[name] = value.detach().cpu()
    return found
