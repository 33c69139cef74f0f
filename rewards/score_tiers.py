"""Piecewise scores as data. A ladder is read from the top: the first rung that lies below a value scores it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from env.types import StopReason


@dataclass(frozen=True)
class Rung:
    """Values strictly above `above` score `base + slope * (value - origin)`, at most `cap`."""

    above: float
    base: float = 0.0
    slope: float = 0.0
    origin: float = 0.0
    cap: float = math.inf


Ladder = tuple[Rung, ...]


def climb(ladder: Ladder, value: float) -> float:
    """The score of `value`; ValueError where it lies below the lowest rung."""
    for rung in ladder:
        if value > rung.above:
            return min(rung.base + rung.slope * (value - rung.origin), rung.cap)
    raise ValueError(f"value {value} lies below the ladder's lowest rung, {ladder[-1].above}")


# How an episode ended; an episode that failed through no fault of the policy is never scored.
FORMAT_SCORES: dict[StopReason, float] = {
    StopReason.ANSWERED: 1.0,
    StopReason.MAX_TURNS: 0.0,
    StopReason.MALFORMED: -1.0,
    StopReason.TOO_LONG: -1.0,
}

# Gain in J of the last key-frame mask over the best earlier one: the tiers that the released code means.
KEY_FRAME_GAIN: Ladder = (
    Rung(above=0.1, slope=10.0, origin=0.05, cap=2.0),
    Rung(above=0.05, base=0.5),
    Rung(above=-0.05, base=0.0),
    Rung(above=-math.inf, base=-1.0),
)

# The released code. In the two `DELTA` ladders its top tier is always overwritten by the next one.
RELEASED_MASK_IOU: Ladder = (
    Rung(above=0.4, slope=3.0, origin=0.4, cap=1.5),
    Rung(above=0.2, base=0.0),
    Rung(above=-math.inf, base=-1.0),
)
RELEASED_DELTA_KEY_FRAMES: Ladder = (
    Rung(above=0.05, base=0.5),
    Rung(above=-0.05, base=0.0),
    Rung(above=-math.inf, base=-1.0),
)
RELEASED_DELTA_KEY_MASK: Ladder = (
    Rung(above=0.1, base=0.5),
    Rung(above=-0.05, base=0.0),
    Rung(above=-math.inf, base=-1.0),
)
