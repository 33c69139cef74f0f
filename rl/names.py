"""Names in `grpo` that are keys of a dict, checked before the first rollout instead of behind it."""

from __future__ import annotations

from configs.load import ConfigError
from configs.schema import GrpoConfig
from rl.calibration import CALIBRATIONS
from rl.loss import KLS, LOSSES
from rl.sampler_weights import LEVELS


def check_names(config: GrpoConfig) -> None:
    """ConfigError on a name that is not known, with those that are."""
    for key, name, known in (
        ("loss", config.loss, LOSSES),
        ("kl_form", config.kl_form, KLS),
        ("truncate_level", config.truncate_level, LEVELS),
        ("calibration", config.calibration, CALIBRATIONS),
    ):
        if name not in known:
            raise ConfigError(f"grpo.{key}: unknown {name!r}; known are {', '.join(known)}")
