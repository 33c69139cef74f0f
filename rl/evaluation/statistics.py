"""Means with bootstrap intervals, for tables of held-out metrics. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LEVEL = 0.95
RESERVED = ALL, PAYS, PAYS_NOT = "all", "exploring pays", "exploring does not pay"  # slices that are no families

Estimate = tuple[float, float, float]  # mean, and the percentile interval of LEVEL around it


def bootstrap_mean(values: Sequence[float], num_resamples: int, seed: int) -> Estimate:
    """Return the mean of values and its bootstrap interval.

    Args:
        values: Finite numbers, at least one.
        num_resamples: Bootstrap resamples.
        seed: Of the resamples.

    Returns:
        (mean, low, high), the percentile interval at `LEVEL`.

    Raises:
        ValueError: There are no values, or one is not finite.
    """
    values_N = np.asarray(values, np.float64)
    if values_N.ndim != 1 or len(values_N) == 0 or not np.isfinite(values_N).all():
        raise ValueError(f"expected a list of finite numbers, found {values_N.tolist()}")
    rng = np.random.default_rng(seed)
    means = [rng.choice(values_N, len(values_N)).mean() for _ in range(num_resamples)]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(values_N.mean()), float(low), float(high)


def paired_difference(a: Sequence[float], b: Sequence[float], num_resamples: int, seed: int) -> Estimate:
    """Return mean and bootstrap interval of b - a, item by item.

    Args:
        a: Values of one policy.
        b: Values of another policy on the same tasks, in the same order.
        num_resamples: Bootstrap resamples.
        seed: Of the resamples.

    Returns:
        (mean, low, high).
    """
    return bootstrap_mean([y - x for x, y in zip(a, b, strict=True)], num_resamples, seed)


def summarise(
    rows: Sequence[Mapping[str, float | None]], metrics: Sequence[str], num_resamples: int, seed: int
) -> dict[str, Estimate | None]:
    """Estimate each metric over the rows to which it applies.

    Args:
        rows: Metric -> value, None where it does not apply.
        metrics: Which of them.
        num_resamples: Bootstrap resamples.
        seed: Of the resamples.

    Returns:
        Metric -> (mean, low, high), None where it applies to no row.
    """
    estimates: dict[str, Estimate | None] = {}
    for metric in metrics:
        values = [value for row in rows if (value := row[metric]) is not None]
        estimates[metric] = bootstrap_mean(values, num_resamples, seed) if values else None
    return estimates


def slices_of(rows: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    """Return slice name ("all", each family, whether exploring pays) -> positions of its rows.

    A family whose name is that of another slice is called "family <name>", so that it replaces no other figure.
    """
    positions = range(len(rows))
    slices = {ALL: list(positions)}
    for family in sorted({row["family"] for row in rows}):
        name = f"family {family}" if family in RESERVED or family.startswith("family ") else family
        slices[name] = [at for at in positions if rows[at]["family"] == family]
    if any(row["explore"] for row in rows):
        slices[PAYS] = [at for at in positions if rows[at]["explore"]]
        slices[PAYS_NOT] = [at for at in positions if not rows[at]["explore"]]
    return slices
