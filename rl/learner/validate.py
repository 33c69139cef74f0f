"""Checks of the names in a config that are keys of a dict, made before the first rollout."""

from __future__ import annotations

from configs.load import ConfigError
from configs.names import unknown_name
from configs.schema import RunConfig
from rewards import check_weights
from rl.learner.calibration import CALIBRATIONS
from rl.learner.importance_sampling import LEVELS
from rl.learner.mask_targets import MASKS
from rl.learner.policy_loss import KLS, LOSSES


def check_names(config: RunConfig) -> None:
    """Raise ConfigError for an unknown name in `grpo` or `rewards`; it lists the known ones."""
    check_weights(config.rewards)
    grpo = config.grpo
    for key, name, known in (
        ("loss", grpo.loss, LOSSES),
        ("kl_form", grpo.kl_form, KLS),
        ("truncate_level", grpo.truncate_level, LEVELS),
        ("calibration", grpo.calibration, CALIBRATIONS),
        ("masks", grpo.masks, MASKS),
    ):
        if name not in known:
            raise ConfigError(unknown_name(f"grpo.{key}", name, known))
