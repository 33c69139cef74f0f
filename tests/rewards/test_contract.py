"""What holds for every reward, and the weighted sum."""

from __future__ import annotations

import copy
import math
import pickle

import pytest

from configs.load import ConfigError
from env.errors import DataError
from env.types import StopReason, Trajectory
from rewards import PROFILES, RANGES, REWARDS, score
from tests.helpers.reward_cases import (
    EMPTY,
    HALF,
    MALFORMED,
    MAX_TURNS,
    NO_TARGET,
    SIDE,
    SINGLE_PASS,
    TARGET,
    TOO_LONG,
    T,
    answer,
    select,
    trajectory,
)

HOSTILE = ["", "[SEG]" * 50, "<answer><VTG>{'start': 1}</VTG></answer>", "<think></think><select>" * 40, "\x00\ud800é"]
MASKS = [{}, {2: TARGET, 8: EMPTY}, {0: TARGET, 3: HALF}, dict.fromkeys(range(T), EMPTY)]
GOLDS = [None, NO_TARGET, (), (EMPTY,) * T, (TARGET,) * T]


def _cases() -> list[Trajectory]:
    cases = []
    for gold in GOLDS:
        known = {} if gold is None else {"gold": gold}
        for masks in MASKS:
            cases += [
                trajectory([answer()], masks=masks, key_masks=[TARGET], **known),
                trajectory([select(0, 9, 9), answer(9, 9, 9)], masks=masks, key_masks=[HALF, TARGET], **known),
                trajectory([select()] * 3, MAX_TURNS, masks=masks, key_masks=[None, EMPTY, HALF], **known),
                trajectory([], TOO_LONG, masks=masks, **known),
                trajectory([], SINGLE_PASS, masks=masks, **known),
            ]
        cases += [trajectory([select(), text], MALFORMED, **known) for text in HOSTILE]
        cases += [trajectory([text], TOO_LONG, **known) for text in HOSTILE]
    return cases


@pytest.mark.parametrize("name", REWARDS)
def test_rewards_are_finite_bounded_repeatable_and_leave_their_input_alone(name: str):
    reward = pickle.loads(pickle.dumps(REWARDS[name]))
    low, high = RANGES[name]
    seen = set()
    for case in _cases():
        before = copy.deepcopy(case)
        value = reward(case)
        assert case == before
        assert value == reward(case) == REWARDS[name](pickle.loads(pickle.dumps(case)))
        if value is not None:
            assert type(value) is float and math.isfinite(value) and low <= value <= high, (value, case)
            seen.add(value)
    assert len(seen) > 1  # it tells some of them apart


@pytest.mark.parametrize("name", PROFILES)
def test_an_answer_with_perfect_masks_beats_everything_else(name: str):
    perfect = trajectory([answer()], masks={2: TARGET, 4: TARGET, 8: EMPTY}, key_masks=[TARGET])
    others = [
        trajectory([answer(7, 9, 8)], masks={2: EMPTY, 4: EMPTY, 8: TARGET}, key_masks=[TARGET]),
        trajectory(["no"], MALFORMED),
        trajectory([], TOO_LONG),
    ]
    best = score(perfect, PROFILES[name]).total
    assert all(score(other, PROFILES[name]).total < best for other in others)


OF_MASKS = ("mask_iou", "tracklet_jf", "o3_maskiou_dense")  # rewards that need no turns


@pytest.mark.parametrize("name", REWARDS)
def test_without_turns_masks_earn_what_an_answer_with_them_earns_and_nothing_else_applies(name: str):
    for masks in MASKS:
        for gold in (NO_TARGET, (TARGET,) * T, (EMPTY,) * T, ()):
            value = REWARDS[name](trajectory([], SINGLE_PASS, masks=masks, gold=gold))
            expected = REWARDS[name](trajectory([answer()], masks=masks, gold=gold)) if name in OF_MASKS else None
            assert value == expected


def test_the_total_is_the_weighted_sum_of_what_applies():
    case = trajectory([answer(3, 3, 3)], masks={2: HALF})
    scores = score(case, {"format": 0.5, "interval_iou": 2.0, "mask_iou": 3.0, "key_frame": 0.0})
    assert scores.breakdown == {"format": 1.0, "interval_iou": 0.25, "mask_iou": 8 / 24, "key_frame": 1.0}
    assert scores.total == pytest.approx(0.5 + 0.5 + 1.0)  # weight 0: recorded, not counted
    no_target = score(trajectory([answer()], masks={2: EMPTY}, gold=NO_TARGET), {"interval_iou": 1.0, "mask_iou": 3.0})
    assert no_target.breakdown == {"interval_iou": None, "mask_iou": 1.0}
    assert no_target.total == 3.0


def test_the_paper_profile_requires_an_answer():
    """Perfect masks that were never answered score no more than the worst answer."""
    unanswered = trajectory([select()], MAX_TURNS, masks={2: TARGET}, key_masks=[TARGET])
    assert score(unanswered, PROFILES["default"]).total == 0.0
    assert score(trajectory([answer(7, 9, 8)]), PROFILES["default"]).total == 0.5


def test_misuse_is_an_error_that_says_what_to_do():
    with pytest.raises(ConfigError, match=r"unknown iou, steppes; known are format, steps, .*o3_maskiou_dense"):
        score(trajectory([answer()]), {"iou": 1.0, "format": 1.0, "steppes": 1.0})
    failed = trajectory([answer()], StopReason.ERROR)
    failed.error = "worker died"
    with pytest.raises(ValueError, match=r"0/made/video/0/0 ended as an error \(worker died\)"):
        score(failed, {"format": 1.0})


def test_masks_that_do_not_fit_the_video_are_data_errors():
    with pytest.raises(DataError, match="frame 10: expected a frame of the 10 that have gold masks"):
        REWARDS["mask_iou"](trajectory([answer()], masks={T: TARGET}))
    wide = {"size": [SIDE, SIDE + 1], "counts": "X2"}
    with pytest.raises(DataError, match=r"predicted mask of frame 3: expected the size of the gold mask"):
        REWARDS["mask_iou"](trajectory([answer()], masks={3: wide}))
    with pytest.raises(DataError, match=r"predicted mask of frame 3: expected runs that fill 8 x 8"):
        REWARDS["key_mask_iou"](trajectory([answer()], key_masks=[{"size": [SIDE, SIDE], "counts": "0"}]))
