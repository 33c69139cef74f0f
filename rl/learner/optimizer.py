"""The optimizer step: AdamW, gradient clipping and the learning-rate schedule, in one process or on several ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from configs.schema import GrpoConfig
from rl.learner.collectives import add_up_gradients, is_true_on_all
from rl.learner.zero_adam import SharedAdam
from rl.runtime.skipped_updates import gradient_cause, gradient_norm


class LearnerOptimizer:
    """AdamW over the trained parameters, with its schedule.

    After `shard`, the step is that of all ranks together, and each rank keeps the state of its part of the parameters
    (ZeRO stage 1, arXiv 1910.02054).
    """

    def __init__(self, named: Mapping[str, torch.nn.Parameter], config: GrpoConfig):
        self.cause = ""  # why the last gradient was not finite, "" if it was
        self._named = named
        self.parameters = list(named.values())
        self._config = config
        self._sharded: SharedAdam | None = None
        self._set_local(torch.optim.AdamW(self.parameters, config.lr, weight_decay=config.weight_decay))

    def _set_local(self, optimizer: torch.optim.Optimizer) -> None:
        config = self._config
        self.local = optimizer  # the optimizer of this process, over all parameters or over this rank's part
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda update: lr_scale(config, update // config.updates)
        )

    @property
    def is_sharded(self) -> bool:
        """Whether this is the optimizer of one rank of several."""
        return self._sharded is not None

    def shard(self) -> None:
        """Start anew as one rank of torch's process group, which must exist. All ranks at once."""
        self._sharded = SharedAdam(self.parameters, self._config.lr, self._config.weight_decay)
        self._set_local(self._sharded.local)

    def step(self, is_loss_finite: bool = True) -> dict[str, float]:
        """Update the parameters from their gradients, advance the schedule and clear the gradients.

        If the gradient is not finite, or the loss was not on any rank, the parameters and the optimizer's state stay as
        they are. On several ranks gradients are summed first; all ranks must call it at once, and all skip alike.

        Args:
            is_loss_finite: Whether this rank's part of the loss was finite.

        Returns:
            "optim/skipped", 0 or 1, the next learning rate and, unless skipped, the gradient's norm before clipping.
        """
        if self._sharded is not None:
            is_loss_finite = is_true_on_all(is_loss_finite, self.parameters[0].device)
            add_up_gradients(self.parameters)
        norm = gradient_norm(self.parameters)
        self.cause = "" if math.isfinite(norm) else gradient_cause(self._named.items())
        is_finite = is_loss_finite and not self.cause
        if is_finite:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self._config.max_grad_norm, norm)
            (self._sharded or self.local).step()
        self.schedule.step()
        self.clear()
        metrics = {"optim/skipped": float(not is_finite), "optim/learning_rate": float(self.schedule.get_last_lr()[0])}
        return metrics | ({"optim/grad_norm": float(norm)} if is_finite else {})

    def clear(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def state(self) -> dict[str, Any]:
        """Return `optimizer` and `schedule` for a checkpoint. All ranks at once; only rank 0 gets the whole state."""
        optimizer = self._sharded.gather() if self._sharded else self.local.state_dict()
        return {"optimizer": optimizer, "schedule": self.schedule.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned, from any number of ranks."""
        if self._sharded is not None:
            self._sharded.load(state["optimizer"])
        else:
            self.local.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        # Learning rate and weight decay are those of the config, which a resumed run may change.
        self.schedule.base_lrs = [self._config.lr]
        (group,) = self.local.param_groups
        group["initial_lr"], group["weight_decay"] = self._config.lr, self._config.weight_decay
        group["lr"] = self._config.lr * self.schedule.lr_lambdas[0](self.schedule.last_epoch)


def lr_scale(config: GrpoConfig, step: int) -> float:
    """Return the factor of `grpo.lr` at `step`: in (0, 1] during the run, 0 after the last step of a decaying rate."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return warmup * (1 - step / max(1, config.steps)) if config.lr_decays else warmup
