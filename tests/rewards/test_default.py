"""The default rewards, value by value."""

from __future__ import annotations

import math
import re

import pytest

from configs.schema import RunConfig
from env.types import Trajectory
from rewards import PROFILES, REWARDS
from rewards.format import steps
from rewards.score_tiers import KEY_FRAME_GAIN, tier_score
from tests.helpers.reward_cases import (
    EMPTY,
    HALF,
    MALFORMED,
    MAX_TURNS,
    NO_TARGET,
    SINGLE_PASS,
    TARGET,
    THINKING,
    TOO_LONG,
    answer,
    select,
    square,
    trajectory,
)

JUNK = "<answer>no"
GOOD = {2: TARGET, 4: TARGET, 8: EMPTY}

CASES: dict[str, list[tuple[Trajectory, float | None]]] = {
    "format": [
        (trajectory([], SINGLE_PASS, masks=GOOD), None),
        (trajectory([answer()]), 1.0),
        (trajectory([select(), select(), answer()]), 1.0),
        (trajectory([select(), select()], MAX_TURNS), 0.0),
        (trajectory([JUNK], MALFORMED), -1.0),
        (trajectory([select(), JUNK], MALFORMED), -1.0),
        (trajectory([select(), "<think>on and on"], TOO_LONG), -1.0),
        (trajectory([], TOO_LONG), -1.0),
        (trajectory([answer()], gold=()), 1.0),
    ],
    "steps": [
        (trajectory([], SINGLE_PASS, masks=GOOD), None),
        (trajectory([answer()]), 1.0),
        (trajectory([answer(thinking="<think>step 1, STEP 2</think>")]), 0.5),
        (trajectory([answer(), answer(thinking="<think>nothing</think>")]), 0.5),
        (trajectory([answer(thinking="<think>Step 11 step 20 steps 3 interaction actions</think>")]), 0.0),
        (trajectory(["<think>Step 1 Step 2 Step 3 Action"], TOO_LONG), 0.0),  # never closed
        (trajectory(["Step 1 Step 2 Step 3 Action"], MALFORMED), 0.0),
        (trajectory([], TOO_LONG), 0.0),
    ],
    "promptness": [
        (trajectory([], SINGLE_PASS, masks=GOOD), None),
        (trajectory([answer()]), 1.0),
        (trajectory([select(), answer()]), 0.5),
        (trajectory([select(), select(), answer()]), 1 / 3),
        (trajectory([select(), select()], MAX_TURNS), 0.0),
        (trajectory([JUNK], MALFORMED), 0.0),
        (trajectory([], TOO_LONG), 0.0),
    ],
    "interval_iou": [
        (trajectory([], SINGLE_PASS, masks=GOOD), None),
        (trajectory([answer(2, 5)]), 1.0),
        (trajectory([answer(3, 3)]), 0.25),  # a precision would be 1
        (trajectory([answer(0, 9)]), 0.4),
        (trajectory([answer(4, 7)]), 2 / 6),
        (trajectory([answer(7, 9)]), 0.0),
        (trajectory([select(2, 5)], MAX_TURNS), 0.0),
        (trajectory([JUNK], MALFORMED), 0.0),
        (trajectory([answer(0, 2)], gold=(TARGET, None, TARGET, *[None] * 7)), 2 / 3),  # a set with a gap
        (trajectory([answer()], gold=NO_TARGET), None),
        (trajectory([answer()], gold=(EMPTY,) * 10), None),
        (trajectory([answer()], gold=()), None),
    ],
    "key_frame": [
        (trajectory([], SINGLE_PASS, masks=GOOD), None),
        (trajectory([answer(key_frame=2)]), 1.0),
        (trajectory([answer(key_frame=5)]), 1.0),
        (trajectory([answer(key_frame=6)]), 0.0),
        (trajectory([select(key_frame=3)], MAX_TURNS), 0.0),
        (trajectory([JUNK], MALFORMED), 0.0),
        (trajectory([answer(key_frame=2)], gold=NO_TARGET), None),
        (trajectory([answer(key_frame=2)], gold=()), None),
    ],
    "mask_iou": [
        (trajectory([], SINGLE_PASS, masks=GOOD), 1.0),
        (trajectory([answer()], masks=GOOD), 1.0),
        (trajectory([answer()], masks={2: HALF, 3: TARGET}), (1 / 3 + 1) / 2),
        (trajectory([answer()], masks={2: EMPTY, 8: TARGET}), 0.0),
        (trajectory([answer()], masks={3: EMPTY, 8: EMPTY}), 0.5),
        (trajectory([answer()]), 0.0),
        (trajectory([select()], MAX_TURNS, masks=GOOD), 0.0),  # an answer is required
        (trajectory([JUNK], MALFORMED, masks=GOOD), 0.0),
        (trajectory([answer()], masks={0: EMPTY, 9: EMPTY}, gold=NO_TARGET), 1.0),
        (trajectory([answer()], masks={0: EMPTY, 9: TARGET}, gold=NO_TARGET), 0.5),
        (trajectory([answer()], masks=GOOD, gold=()), None),
    ],
    "key_mask_iou": [
        (trajectory([], SINGLE_PASS, masks=GOOD), None),
        (trajectory([answer()], key_masks=[TARGET]), 1.0),
        (trajectory([answer()], key_masks=[HALF]), 1 / 3),
        (trajectory([answer()], key_masks=[EMPTY]), 0.0),
        (trajectory([answer()]), 0.0),
        (trajectory([select(), answer(key_frame=8)], key_masks=[TARGET, EMPTY]), 0.0),  # other frames show the target
        (trajectory([answer(key_frame=8)], key_masks=[EMPTY], gold=NO_TARGET), 1.0),
        (trajectory([answer(key_frame=8)], key_masks=[HALF], gold=NO_TARGET), 0.0),
        (trajectory([answer(key_frame=8)], key_masks=[HALF], mask_frames=[3]), 1 / 3),  # where it was decoded
        (trajectory([select()], MAX_TURNS, key_masks=[TARGET]), 0.0),
        (trajectory([answer()], key_masks=[TARGET], gold=()), None),
    ],
    "key_frame_gain": [
        (trajectory([], SINGLE_PASS, masks=GOOD), None),
        (trajectory([answer()], key_masks=[TARGET]), None),
        (trajectory([select(), answer()], key_masks=[HALF, TARGET]), 2.0),  # a gain of 2/3, capped
        (trajectory([select(), answer()], key_masks=[TARGET, TARGET]), 0.0),
        (trajectory([select(), answer()], key_masks=[TARGET, HALF]), -1.0),
        (trajectory([select(), select(), answer()], key_masks=[TARGET, EMPTY, TARGET]), 0.0),  # the best earlier one
        (trajectory([select(), answer()], key_masks=[None, HALF]), 2.0),
        (trajectory([select(), select()], MAX_TURNS, key_masks=[EMPTY, TARGET]), -1.0),
        (trajectory([select(), JUNK], MALFORMED, key_masks=[TARGET, None]), -1.0),
        (trajectory([select(), answer(key_frame=8)], key_masks=[HALF, EMPTY]), -1.0),  # no gain by an empty frame
        (trajectory([select(), answer()], key_masks=[HALF, TARGET], gold=()), None),
    ],
    "tracklet_jf": [
        (trajectory([], SINGLE_PASS, masks=GOOD), 1.0),
        (trajectory([answer()], masks=GOOD), 1.0),
        (trajectory([answer()], masks={2: TARGET, 8: TARGET}), 0.5),
        # One pixel to the side: J = 12 / 20, and every contour pixel lies within the tolerance of one pixel.
        (trajectory([answer()], masks={2: square(left=3)}), (0.6 + 1) / 2),
        (trajectory([answer()]), 0.0),
        (trajectory([select()], MAX_TURNS, masks=GOOD), 0.0),
        (trajectory([answer()], masks={1: EMPTY}, gold=NO_TARGET), 1.0),
        (trajectory([answer()], masks={1: EMPTY, 2: TARGET, 3: EMPTY, 4: EMPTY}, gold=NO_TARGET), 0.75),
        (trajectory([answer()], masks=GOOD, gold=()), None),
    ],
    "progress": [
        (trajectory([], SINGLE_PASS, masks=GOOD), None),
        (trajectory([answer()], key_masks=[TARGET]), 0.0),
        (trajectory([select(), answer()], key_masks=[HALF, TARGET]), 2 / 3),
        (trajectory([select(), answer()], key_masks=[None, HALF]), 1 / 3),
        (trajectory([select(), answer()], key_masks=[TARGET, HALF]), -2 / 3),
        (trajectory([select(), select(), answer()], key_masks=[HALF, EMPTY, TARGET]), 2 / 3),  # against the first
        (trajectory([select(), answer(key_frame=8)], key_masks=[HALF, EMPTY]), -1 / 3),  # a frame without the target
        (trajectory([select(key_frame=8), answer()], key_masks=[EMPTY, TARGET]), 1.0),
        (trajectory([select(), select()], MAX_TURNS, key_masks=[HALF, TARGET]), -1 / 3),  # never answered
        (trajectory([select(), JUNK], MALFORMED, key_masks=[TARGET, None]), -1.0),
        (trajectory([select()], MAX_TURNS, key_masks=[TARGET]), 0.0),
        (trajectory([], TOO_LONG), 0.0),
        (trajectory([select(), answer()], key_masks=[HALF, EMPTY], gold=NO_TARGET), 1.0),  # it came to abstain
        (trajectory([select(), answer()], key_masks=[HALF, TARGET], gold=()), None),
    ],
    "turn_cost": [
        (trajectory([], SINGLE_PASS, masks=GOOD), None),
        (trajectory([answer()], key_masks=[TARGET]), 0.0),
        (trajectory([select(), answer()], key_masks=[HALF, TARGET]), -1.0),  # gained 2/3, so the full price
        (trajectory([select(), answer()], key_masks=[EMPTY, HALF]), -2 / 3),  # twice the gain
        (trajectory([select(), answer()], key_masks=[HALF, HALF]), -1.0),  # gained nothing
        (trajectory([select(), answer()], key_masks=[TARGET, HALF]), -1.0),
        (trajectory([select(), select(), answer()], key_masks=[HALF, HALF, HALF]), -2.0),
        (trajectory([select(), select(), answer()], key_masks=[EMPTY, EMPTY, HALF]), -2 / 3),  # both for one gain
        (trajectory([select(), select(), answer()], key_masks=[EMPTY, HALF, HALF]), -2 / 3),  # the rest of that gain
        (trajectory([select(), select(), answer()], key_masks=[EMPTY, HALF, TARGET]), -5 / 3),  # 2/3, and 1 more
        (trajectory([select(), select(), answer()], key_masks=[TARGET, EMPTY, HALF]), -5 / 3),  # 1, and 2/3 since then
        (trajectory([select(), select(), answer()], key_masks=[TARGET, HALF, EMPTY]), -2.0),
        (trajectory([select(), select()], MAX_TURNS, key_masks=[EMPTY, TARGET]), -1.0),  # never answered
        (trajectory([JUNK], MALFORMED), 0.0),
        (trajectory([], TOO_LONG), 0.0),
        (trajectory([select(), answer()], key_masks=[HALF, EMPTY], gold=NO_TARGET), -1.0),
        (trajectory([select(), answer()], key_masks=[HALF, TARGET], gold=()), None),
    ],
}


@pytest.mark.parametrize(
    ("name", "case", "expected"), [(name, case, value) for name, rows in CASES.items() for case, value in rows]
)
def test_reward(name: str, case: Trajectory, expected: float | None):
    value = REWARDS[name](case)
    assert value is None if expected is None else value == pytest.approx(expected, abs=1e-12)


def test_every_default_reward_has_a_table():
    assert set(CASES) == {name for name in REWARDS if not name.startswith("o3_")}
    assert all(len(rows) >= 6 for rows in CASES.values())


@pytest.mark.parametrize(
    ("gain", "expected"),
    [
        *((1.0, 2.0), (0.25, 2.0), (0.2, 1.5), (0.11, 0.6), (0.1, 0.5), (0.06, 0.5)),
        *((0.05, 0.0), (0.0, 0.0), (-0.04, 0.0), (-0.05, -1.0), (-1.0, -1.0)),
    ],
)
def test_key_frame_gain_ladder(gain: float, expected: float):
    assert tier_score(KEY_FRAME_GAIN, gain) == pytest.approx(expected)


def test_the_default_ladder_never_falls():
    values = [tier_score(KEY_FRAME_GAIN, at / 1000) for at in range(-1000, 1001)]
    assert values == sorted(values)
    assert KEY_FRAME_GAIN[-1].above == -math.inf


def test_the_default_profile_is_the_default_config():
    assert PROFILES["default"] == RunConfig().rewards


def test_every_reward_says_its_range_its_edge_cases_and_why():
    for name, reward in REWARDS.items():
        text = reward.__doc__ or ""
        assert re.search(r"\d", text.partition("Edge cases: ")[0]), name
        assert "Why: " in text.partition("Edge cases: ")[2], name


def test_steps_take_linear_time_on_tags_that_never_close():
    assert steps(trajectory(["<think>" * 200_000], TOO_LONG)) == 0.0
    assert steps(trajectory([THINKING + "<think>" * 200_000], TOO_LONG)) == 1.0
