"""Settings of the policy loss for tests, without a KL unless a test asks for one."""

from __future__ import annotations

from typing import Any

from configs.schema import GrpoConfig


def loss_config(loss: str = "dapo", **changes: Any) -> GrpoConfig:
    """Build a config with this loss and `changes`; `kl_coef` is 0 if it is not among them."""
    return GrpoConfig(**({"loss": loss, "kl_coef": 0.0} | changes))
