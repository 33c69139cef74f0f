"""Piecewise scores as data: a list of tiers, of which the first whose bound lies below a value gives its score."""

from __future__ import annotations

import math
from dataclasses import dataclass

from env.types import StopReason


@dataclass(frozen=True)
class Tier:
    """Values strictly above `above` score `base + slope * (value - origin)`, at most `cap`."""

    above: float
    base: float = 0.0
    slope: float = 0.0
    origin: float = 0.0
    cap: float = math.inf


Tiers = tuple[Tier, ...]  # from the highest bound to the lowest


def tier_score(tiers: Tiers, value: float) -> float:
    """Return the score of `value`; ValueError where it lies below the lowest tier."""
    for tier in tiers:
        if value > tier.above:
            return min(tier.base + tier.slope * (value - tier.origin), tier.cap)
    raise ValueError(f"value {value} lies below the lowest tier, {tiers[-1].above}")


# By how an episode ended. One that ended in an error is never scored; one of a family without turns has no format.
FORMAT_SCORES: dict[StopReason, float] = {
    StopReason.ANSWERED: 1.0,
    StopReason.MAX_TURNS: 0.0,
    StopReason.MALFORMED: -1.0,
    StopReason.TOO_LONG: -1.0,
}

# Gain in J of the last key-frame mask over the best earlier one: the tiers that the released code intends.
KEY_FRAME_GAIN: Tiers = (
    Tier(above=0.1, slope=10.0, origin=0.05, cap=2.0),
    Tier(above=0.05, base=0.5),
    Tier(above=-0.05, base=0.0),
    Tier(above=-math.inf, base=-1.0),
)

# As the released code computes them. In the two `DELTA` lists its next tier always overwrites the top one.
RELEASED_MASK_IOU: Tiers = (
    Tier(above=0.4, slope=3.0, origin=0.4, cap=1.5),
    Tier(above=0.2, base=0.0),
    Tier(above=-math.inf, base=-1.0),
)
RELEASED_DELTA_KEY_FRAMES: Tiers = (
    Tier(above=0.05, base=0.5),
    Tier(above=-0.05, base=0.0),
    Tier(above=-math.inf, base=-1.0),
)
RELEASED_DELTA_KEY_MASK: Tiers = (
    Tier(above=0.1, base=0.5),
    Tier(above=-0.05, base=0.0),
    Tier(above=-math.inf, base=-1.0),
)
