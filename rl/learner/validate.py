"""Names in a config that are keys of a dict, checked before the first rollout instead of behind it."""

from __future__ import annotations

from configs.load import ConfigError
from configs.schema import RunConfig
from rewards import check_weights
from rl.learner.calibration import CALIBRATIONS
from rl.learner.importance_sampling import LEVELS
from rl.learner.mask_targets import MASKS
from rl.learner.policy_loss import KLS, LOSSES
from rl.rollout.weight_transport import TRANSPORTS


def check_names(config: RunConfig) -> None:
    """ConfigError on a name in `grpo` or `rewards` that is not known, with those that are."""
    check_weights(config.rewards)
    grpo = config.grpo
    for key, name, known in (
        ("loss", grpo.loss, LOSSES),
        ("kl_form", grpo.kl_form, KLS),
        ("truncate_level", grpo.truncate_level, LEVELS),
        ("calibration", grpo.calibration, CALIBRATIONS),
        ("masks", grpo.masks, MASKS),
        ("weight_transport", grpo.weight_transport, TRANSPORTS),
    ):
        if name not in known:
            raise ConfigError(f"grpo.{key}: unknown {name!r}; known are {', '.join(known)}")
