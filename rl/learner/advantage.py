"""Advantages relative to a group of siblings (GRPO, arXiv 2402.03300). Pure."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from configs.schema import RunConfig
from env.types import Trajectory
from rewards import score

EPSILON = 1e-4  # added to the standard deviation, as in TRL and the released code


def group_advantages(returns_G: Sequence[float], scale_by_std: bool) -> np.ndarray:
    """Return each return minus the group's mean, as [G] float64; equal returns give exact zeros.

    With `scale_by_std` the difference is divided by the unbiased standard deviation plus EPSILON (GRPO, arXiv
    2402.03300); without, it stays as it is (Dr. GRPO, arXiv 2503.20783). ValueError for a group of fewer than two, or
    for a return that is not finite.
    """
    values_G = np.asarray(returns_G, np.float64)
    if values_G.ndim != 1 or len(values_G) < 2:
        raise ValueError(f"expected at least 2 returns in a group, found {values_G.tolist()}")
    if not np.isfinite(values_G).all():
        raise ValueError(f"expected finite returns, found {values_G.tolist()}")
    if np.all(values_G == values_G[0]):  # the mean of equal numbers may be off by a rounding error
        return np.zeros_like(values_G)
    centred_G = values_G - values_G.mean()
    return centred_G / (values_G.std(ddof=1) + EPSILON) if scale_by_std else centred_G


def assign_advantages(group: Sequence[Trajectory], config: RunConfig) -> None:
    """Fill in the rewards of a scored group, and each trajectory's advantage over its siblings."""
    for trajectory in group:
        trajectory.scores = score(trajectory, config.rewards)
    returns = [trajectory.scores.total for trajectory in group if trajectory.scores]
    if config.grpo.shuffle_rewards:
        rng = np.random.default_rng([config.seed, group[0].step, zlib.crc32(group[0].task.task_id.encode())])
        returns = [float(value) for value in rng.permutation(returns)]
    for trajectory, advantage in zip(group, group_advantages(returns, config.grpo.scale_by_std), strict=True):
        trajectory.advantage = float(advantage)
