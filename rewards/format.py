"""Rewards for what the policy writes. They do not apply to model families without turns."""

from __future__ import annotations

import re

from env.types import Trajectory
from rewards.base import final_answer, is_single_pass, text_between
from rewards.score_tiers import FORMAT_SCORES

# In upper and lower case; "Step 11" does not count as step 1, nor "interaction" as action.
_STEPS = tuple(re.compile(rf"\b{name}\b", re.IGNORECASE) for name in (r"step\s*1", r"step\s*2", r"step\s*3", "action"))


def format_reward(trajectory: Trajectory) -> float | None:
    """1 for an episode that ends in an answer, 0 where its turns ran out, -1 for malformed or endless text.

    Edge cases: only the end of the episode counts; -1 where the first observation did not fit; None for a family
    without turns.
    Why: an answer is required. An episode whose turns ran out was at least parsed, so its score lies between.
    """
    return None if is_single_pass(trajectory) else FORMAT_SCORES[trajectory.stop_reason]


def promptness(trajectory: Trajectory) -> float | None:
    """1 divided by the number of turns that led to the answer, 0..1.

    Edge cases: 0 without an answer; None for a family without turns.
    Why: makes every zoom cost something, whatever it gains: at weight 0.4 the first costs 0.2, the second 0.07. It can
    outweigh small gains; `turn_cost` cannot.
    """
    if is_single_pass(trajectory):
        return None
    return 0.0 if final_answer(trajectory) is None else 1 / len(trajectory.turns)


def steps(trajectory: Trajectory) -> float | None:
    """Share of "Step 1", "Step 2", "Step 3" and "Action" that the thinking names, mean over turns, 0..1.

    Edge cases: 0 without turns, and for a turn whose thinking is never closed; an answer is not required; None for a
    family without turns.
    Why: keeps a policy to the form of the traces while other rewards are still rare.
    """
    if is_single_pass(trajectory):
        return None
    if not trajectory.turns:
        return 0.0
    return sum(_share_of_steps(turn.action.text) for turn in trajectory.turns) / len(trajectory.turns)


def _share_of_steps(text: str) -> float:
    thinking = text_between(text, "<think>", "</think>") or ""
    return sum(bool(step.search(thinking)) for step in _STEPS) / len(_STEPS)
