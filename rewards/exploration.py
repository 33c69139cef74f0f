"""Rewards for what looking closer was good for: what all looks gained, and what they cost.

Evidence after a turn is J of its mask on its key frame (`rewards.mask.turn_key_j`), 0 after the last turn where that is
no answer. The two rewards go together. With weights p of `progress`, c of `turn_cost` and w of `key_mask_iou`, and all
else equal:

- *No price outweighs evidence.* An episode that ends with more evidence than it had after some earlier turn scores more
  than the same episode answered there, however many turns lie between, if 2 c < w + p (`rewards.check_weights`).
- *Nothing is won by a worse start.* An episode that ends with more evidence than it began with scores no more than an
  answer of the same evidence at once, if p <= c; a bonus for progress alone would pay for first turns that miss.
"""

from __future__ import annotations

from env.types import Trajectory
from rewards.base import final_answer
from rewards.mask import turn_key_j

MAX_COST_PER_GAIN = 2.0  # a look costs at most so many times what it gained, where it gained anything


def progress(trajectory: Trajectory) -> float | None:
    """Evidence after the last turn minus that after the first, -1..1.

    Edge cases: 0 for one turn or none; minus the first turn's evidence without an answer; None where gold is unknown.
    Why: the answer alone cannot tell an episode that found the target late from one that lost it again. Measured
    against the first turn and not the best one, so that the end of an episode counts for as much as its middle.
    """
    if not trajectory.task.gold:
        return None
    evidence = _evidence(trajectory)
    return evidence[-1] - evidence[0] if evidence else 0.0


def turn_cost(trajectory: Trajectory) -> float | None:
    """Minus the price of the looks: 1 for each turn after the first, but at most twice any gain; -(turns - 1)..0.

    The price after a turn is one more than before it, and no more than the price after any earlier turn of less
    evidence plus twice what was gained since.

    Edge cases: 0 for one turn or none; looks that gain nothing cost their full price, as do all where no answer comes;
    so does a gain of 0.5 and more. None where gold is unknown.
    Why: without a price, looks that change nothing are free, and training drifts to as many as are allowed. With a
    fixed one the policy stops looking where gains are small, though they are what it is there for.
    """
    if not trajectory.task.gold:
        return None
    evidence = _evidence(trajectory)
    prices = [0.0]
    for number, value in enumerate(evidence[1:], start=1):
        earlier = zip(prices, evidence[:number], strict=True)
        caps = [price + MAX_COST_PER_GAIN * (value - before) for price, before in earlier if before < value]
        prices.append(min([prices[-1] + 1.0, *caps]))
    return 0.0 - prices[-1]


def _evidence(trajectory: Trajectory) -> list[float]:
    """Evidence after each turn, 0..1."""
    values = [turn_key_j(trajectory, turn) for turn in trajectory.turns]
    if values and final_answer(trajectory) is None:
        values[-1] = 0.0
    return values
