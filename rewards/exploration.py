"""Rewards for exploring: what all zooms of an episode gained, and what they cost.

The evidence after a turn is J of its mask on its key frame (`rewards.mask.turn_key_j`); after the last turn it is 0
unless that turn is an answer. The two rewards belong together. With weights p of `progress`, c of `turn_cost` and w of
`key_mask_iou`, and all else equal:

- *The cost never outweighs evidence.* If 2 c < w + p (`rewards.check_weights`), an episode that ends with more evidence
  than it had after some earlier turn scores more than the same episode answered there, however many turns lie between.
- *A worse start never pays.* If p <= c, an episode that ends with more evidence than it began with scores no more than
  an answer of the same evidence at once. A bonus for progress alone would pay for first turns that miss.
"""

from __future__ import annotations

from env.types import Trajectory
from rewards.base import final_answer, is_single_pass
from rewards.mask import turn_key_j

MAX_COST_PER_GAIN = 2.0  # a zoom that gains evidence costs at most so many times its gain


def progress(trajectory: Trajectory) -> float | None:
    """Evidence after the last turn minus that after the first, -1..1.

    Edge cases: 0 for one turn or none; minus the first turn's evidence without an answer; None where gold is unknown
    and for a family without turns.
    Why: the answer alone cannot tell an episode that found the target late from one that lost it again. It compares
    with the first turn and not with the best one, so that the end of an episode counts as much as its middle.
    """
    if not trajectory.task.gold or is_single_pass(trajectory):
        return None
    evidence = _evidence(trajectory)
    return evidence[-1] - evidence[0] if evidence else 0.0


def turn_cost(trajectory: Trajectory) -> float | None:
    """Minus the cost of the zooms: 1 for each turn after the first, but at most twice any gain; -(turns - 1)..0.

    The cost after a turn is one more than before it, and at most the cost after any earlier turn of less evidence plus
    twice the gain since then.

    Edge cases: 0 for one turn or none; zooms that gain nothing have their full cost, as have all where no answer comes
    and those that gain 0.5 or more. None where gold is unknown and for a family without turns.
    Why: without a cost, zooms that change nothing are free, and training drifts to as many as are allowed. With a fixed
    cost the policy stops zooming where gains are small, although these are the gains that zooming is for.
    """
    if not trajectory.task.gold or is_single_pass(trajectory):
        return None
    evidence = _evidence(trajectory)
    costs = [0.0]
    for number, value in enumerate(evidence[1:], start=1):
        earlier = zip(costs, evidence[:number], strict=True)
        caps = [cost + MAX_COST_PER_GAIN * (value - before) for cost, before in earlier if before < value]
        costs.append(min([costs[-1] + 1.0, *caps]))
    return 0.0 - costs[-1]


def _evidence(trajectory: Trajectory) -> list[float]:
    """Return the evidence after each turn, 0..1."""
    values = [turn_key_j(trajectory, turn) for turn in trajectory.turns]
    if values and final_answer(trajectory) is None:
        values[-1] = 0.0
    return values
