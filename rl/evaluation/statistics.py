"""Means with bootstrap intervals, for tables of held-out figures. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LEVEL = 0.95

Estimate = tuple[float, float, float]  # mean, and the percentile interval of LEVEL around it


def bootstrap_mean(values: Sequence[float], num_resamples: int, seed: int) -> Estimate:
    """(mean, low, high) of the values; ValueError where there are none or one is not finite."""
    values_N = np.asarray(values, np.float64)
    if values_N.ndim != 1 or len(values_N) == 0 or not np.isfinite(values_N).all():
        raise ValueError(f"expected a list of finite numbers, found {values_N.tolist()}")
    rng = np.random.default_rng(seed)
    means = [rng.choice(values_N, len(values_N)).mean() for _ in range(num_resamples)]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(values_N.mean()), float(low), float(high)


def paired_difference(a: Sequence[float], b: Sequence[float], num_resamples: int, seed: int) -> Estimate:
    """(mean, low, high) of b - a, item by item: two policies on the same tasks, in the same order."""
    return bootstrap_mean([y - x for x, y in zip(a, b, strict=True)], num_resamples, seed)


def summarise(
    rows: Sequence[Mapping[str, float | None]], measures: Sequence[str], num_resamples: int, seed: int
) -> dict[str, Estimate | None]:
    """Each measure's estimate over the rows where it is not None; None where it never applies."""
    estimates: dict[str, Estimate | None] = {}
    for measure in measures:
        values = [value for row in rows if (value := row[measure]) is not None]
        estimates[measure] = bootstrap_mean(values, num_resamples, seed) if values else None
    return estimates


def slices_of(rows: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    """Group name ("all", each family, whether exploring pays) -> positions of its rows."""
    positions = range(len(rows))
    groups = {"all": list(positions)}
    for family in sorted({row["family"] for row in rows}):
        groups[family] = [at for at in positions if rows[at]["family"] == family]
    if any(row["explore"] for row in rows):
        groups["exploring pays"] = [at for at in positions if rows[at]["explore"]]
        groups["exploring does not pay"] = [at for at in positions if not rows[at]["explore"]]
    return groups
