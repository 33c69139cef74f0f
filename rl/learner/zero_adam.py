"""AdamW whose state is shared out over the ranks of a process group (ZeRO stage 1, arXiv 1910.02054).

Torch has one of its own, `ZeroRedundancyOptimizer`, which is experimental: it collects states by way of Python lists of
their bytes, and after loading keeps them twice on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from rl.learner.collectives import balance

STATE = ("step", "exp_avg", "exp_avg_sq")  # of a parameter that has had a gradient


class SharedAdam:
    """Each rank steps the parameters that it owns, and hands them to the others.

    `local` is the optimizer of this rank's own, for a schedule to set the rate of.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], lr: float, weight_decay: float):
        """The same parameters in the same order on every rank; at least one for each."""
        self._parameters = list(parameters)
        self._rank = dist.get_rank()
        self._owners = balance([parameter.numel() for parameter in parameters], dist.get_world_size())
        self._own = [at for at, owner in enumerate(self._owners) if owner == self._rank]
        self.local = torch.optim.AdamW([parameters[at] for at in self._own], lr, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self) -> None:
        """All ranks at once, with the same gradients."""
        self.local.step()
        calls = [
            dist.broadcast(parameter, src=owner, async_op=True)
            for parameter, owner in zip(self._parameters, self._owners, strict=True)
        ]
        for call in calls:
            assert call is not None
            call.wait()

    def gather(self) -> dict[str, Any]:
        """`state_dict` of an `AdamW` over all parameters, on the CPU; whole in rank 0 alone. All ranks at once."""
        state: dict[int, dict[str, torch.Tensor]] = {}
        for at, (parameter, owner) in enumerate(zip(self._parameters, self._owners, strict=True)):
            held = self.local.state.get(parameter, {})
            if owner == self._rank == 0:
                found = {name: value.cpu() for name, value in held.items()}
            elif owner == self._rank:
                found = {}
                _send(held, parameter)
            else:
                found = _receive(parameter, owner) if self._rank == 0 else {}
            if found:
                state[at] = found
        (group,) = self.local.state_dict()["param_groups"]
        return {"state": state, "param_groups": [group | {"params": list(range(len(self._parameters)))}]}

    def load(self, whole: dict[str, Any]) -> None:
        """Take this rank's share of what `gather`, or an `AdamW`, has told."""
        state = {local: whole["state"][at] for local, at in enumerate(self._own) if at in whole["state"]}
        (group,) = whole["param_groups"]
        groups = [group | {"params": list(range(len(self._own)))}]
        self.local.load_state_dict({"state": state, "param_groups": groups})


def _send(held: dict[str, torch.Tensor], parameter: torch.nn.Parameter) -> None:
    dist.send(torch.tensor([len(held)], device=parameter.device), dst=0)
    for name in STATE if held else ():
        dist.send(held[name].to(parameter.device, torch.float32).contiguous(), dst=0)


def _receive(parameter: torch.nn.Parameter, owner: int) -> dict[str, torch.Tensor]:
    known = torch.zeros(1, dtype=torch.long, device=parameter.device)
    dist.recv(known, src=owner)
    found = {}
    for name in STATE if known.item() else ():
        value = torch.empty((), device=parameter.device) if name == "step" else torch.empty_like(parameter)
        dist.recv(value, src=owner)
        found[name] = value.detach().cpu()
    return found
