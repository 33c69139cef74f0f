"""Rewards for how the policy writes."""

from __future__ import annotations

import re

from env.types import Trajectory
from rewards.base import final_answer, text_between
from rewards.score_tiers import FORMAT_SCORES

# Upper and lower case alike; "Step 11" is no step 1 and "interaction" no action.
_STEPS = tuple(re.compile(rf"\b{name}\b", re.IGNORECASE) for name in (r"step\s*1", r"step\s*2", r"step\s*3", "action"))


def format_reward(trajectory: Trajectory) -> float:
    """1 for an episode that ends in an answer, 0 where its turns ran out, -1 for malformed or endless text.

    Edge cases: only how the episode ended counts; -1 where not even the first observation fitted.
    Why: an answer is required. Turns that ran out were at least understood, and so lie between.
    """
    return FORMAT_SCORES[trajectory.stop_reason]


def promptness(trajectory: Trajectory) -> float:
    """One by the number of turns that led to the answer, 0..1.

    Edge cases: 0 without an answer.
    Why: makes a look cost something, whatever it gains: at weight 0.4 the first costs 0.2, the second 0.07. It can
    outweigh small gains; `turn_cost` cannot.
    """
    return 0.0 if final_answer(trajectory) is None else 1 / len(trajectory.turns)


def steps(trajectory: Trajectory) -> float:
    """Share of "Step 1", "Step 2", "Step 3" and "Action" that the thinking names, mean over turns, 0..1.

    Edge cases: 0 without turns, and for a turn whose thinking is never closed; answers are not required.
    Why: holds a policy to the form of the traces while other rewards are still rare.
    """
    if not trajectory.turns:
        return 0.0
    return sum(_share_of_steps(turn.action.text) for turn in trajectory.turns) / len(trajectory.turns)


def _share_of_steps(text: str) -> float:
    thinking = text_between(text, "<think>", "</think>") or ""
    return sum(bool(step.search(thinking)) for step in _STEPS) / len(_STEPS)
