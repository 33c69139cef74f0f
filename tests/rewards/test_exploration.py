"""What the default profile promises about looks: no price outweighs what they gained, and no worse start pays."""

from __future__ import annotations

import itertools

import pytest

from configs.load import ConfigError
from env.types import StopReason
from rewards import PROFILES, check_weights, score
from rewards.exploration import MAX_COST_PER_GAIN
from tests.helpers.reward_cases import EMPTY, HALF, MAX_TURNS, NO_TARGET, TARGET, answer, select, square, trajectory

DEFAULT = PROFILES["default"]
MASKS = (EMPTY, square(side=1), HALF, square(top=3, left=3), TARGET)
EVIDENCE = (0.0, 1 / 16, 1 / 3, 9 / 23, 1.0)  # their J with the target

# Every course of up to four turns, as positions in `MASKS`.
COURSES = [course for turns in range(1, 5) for course in itertools.product(range(len(MASKS)), repeat=turns)]


def total(course: tuple[int, ...], stop: StopReason = StopReason.ANSWERED) -> float:
    """What an episode scores whose key frames get these masks; all else is the same whatever its turns."""
    last = answer() if stop is StopReason.ANSWERED else select()
    texts = [*[select()] * (len(course) - 1), last]
    return score(trajectory(texts, stop, {3: HALF}, [MASKS[at] for at in course]), DEFAULT).total


@pytest.fixture(scope="module")
def totals() -> dict[tuple[int, ...], float]:
    return {course: total(course) for course in COURSES}


def test_no_price_outweighs_evidence(totals: dict[tuple[int, ...], float]):
    """More evidence than after some earlier turn scores more than an answer there, and no more evidence no more."""
    for course in COURSES:
        for cut in range(1, len(course)):
            gain = EVIDENCE[course[-1]] - EVIDENCE[course[cut - 1]]
            difference = totals[course] - totals[course[:cut]]
            assert difference > 0.1 * gain if gain > 0 else difference <= 1e-12, (course, cut)


def test_looks_that_gain_nothing_over_the_first_turn_cost_something(totals: dict[tuple[int, ...], float]):
    for course in COURSES:
        if len(course) > 1 and EVIDENCE[course[-1]] <= EVIDENCE[course[0]]:
            assert totals[course] < totals[course[:1]] - 0.02


def test_a_worse_start_never_pays(totals: dict[tuple[int, ...], float]):
    """An answer of the same evidence at once scores at least as much, however much the looks gained."""
    assert all(totals[course] <= totals[course[-1:]] + 1e-12 for course in COURSES)


def test_looking_never_makes_up_for_an_answer(totals: dict[tuple[int, ...], float]):
    worst = min(totals[course] for course in COURSES if len(course) <= 3)
    assert all(total(course, MAX_TURNS) < worst for course in COURSES if len(course) == 3)


def test_without_a_target_abstaining_is_all_that_counts():
    """An empty answer scores as much as a perfect one could, and each frame that is marked costs its share."""
    parts = {"format": 0.5, "interval_iou": None, "key_frame": None, "key_mask_iou": 0.5, "tracklet_jf": 2.0}
    parts |= {"progress": 0.0, "turn_cost": 0.0}
    empty = score(trajectory([answer()], masks={1: EMPTY, 3: EMPTY}, key_masks=[EMPTY], gold=NO_TARGET), DEFAULT)
    weighted = {name: None if value is None else DEFAULT[name] * value for name, value in empty.breakdown.items()}
    assert weighted == parts
    half = score(trajectory([answer()], masks={1: HALF, 3: EMPTY}, key_masks=[EMPTY], gold=NO_TARGET), DEFAULT)
    assert half.total == empty.total - 1.0
    silent = score(trajectory([select()], MAX_TURNS, {1: EMPTY}, [EMPTY], NO_TARGET), DEFAULT)
    assert silent.total == 0.0, "abstaining is an answer too"


def test_a_price_that_could_outweigh_evidence_is_refused():
    for name, weights in PROFILES.items():
        check_weights(weights)
        assert MAX_COST_PER_GAIN * weights.get("turn_cost", 0.0) < weights.get("key_mask_iou", 0.0) or name != "default"
    check_weights({"turn_cost": 0.0, "mask_iou": 1.0})  # recorded, not charged
    check_weights({"turn_cost": 0.2, "key_mask_iou": 0.41})
    with pytest.raises(ConfigError, match=r"turn_cost: expected less than 0.35, got 0.4"):
        check_weights(DEFAULT | {"turn_cost": 0.4})
    with pytest.raises(ConfigError, match=r"turn_cost: expected less than 0, got 0.2"):
        check_weights({"mask_iou": 2.0, "turn_cost": 0.2})
    for earned in ({"key_mask_iou": 0.5}, {"progress": 0.5}, {"progress": 0.25, "key_mask_iou": 0.25}):
        with pytest.raises(ConfigError, match=r"expected less than 0\.25, got 0\.25"):
            check_weights({"turn_cost": 0.25, **earned})  # a gain that is exactly paid for does not pay
        check_weights({"turn_cost": 0.249, **earned})
