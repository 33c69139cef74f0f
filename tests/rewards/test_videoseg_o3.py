"""The released rewards, faults included. Expected numbers follow the released functions, run on the same inputs."""

from __future__ import annotations

import pytest

from env.types import RLE, Trajectory
from rewards import PROFILES, REWARDS, score
from rewards.score_tiers import RELEASED_DELTA_KEY_MASK, RELEASED_MASK_IOU, tier_score
from tests.helpers.reward_cases import (
    EMPTY,
    HALF,
    MALFORMED,
    MAX_TURNS,
    NO_TARGET,
    TARGET,
    THINKING,
    TOO_LONG,
    T,
    answer,
    select,
    square,
    trajectory,
)


def block(fields: str, tag: str = "answer", before: str = "<think>x</think>", ref: str = "[SEG]") -> str:
    return f"{before}<{tag}><VTG>{fields}</VTG>, <RefSeg>{ref}</RefSeg></{tag}>"


def one(text: str, **known) -> Trajectory:
    return trajectory([text], **known)


FIELDS = '{"start": 2, "end": 6, "keyframe": 3}'
PERFECT = 0.49999988079071045  # half of 4 / (4 + 1e-6) in single precision
OF_TEN = 0.4999999403953552  # half of 10 / (10 + 1e-6)

# Masks by their J with the target, 16 pixels: shared / union.
J_600 = square(left=3)  # 12 / 20
J_563 = square(side=3)  # 9 / 16
J_444 = square(side=6)  # 16 / 36
J_391 = square(top=3, left=3)  # 9 / 23
J_231 = square(top=3, left=4)  # 6 / 26
J_167 = square(left=5)  # 4 / 24: the border cuts a column


def vs_mask(key: RLE | None, *video: RLE, shown: int | None = None, key_frame: int = 3) -> Trajectory:
    """Two turns; the last one's mask on the frame shown, else on its key frame, and those of the video."""
    texts = [select(), answer(key_frame=key_frame)]
    return trajectory(texts, masks=dict(enumerate(video, 2)), key_masks=[None, key], mask_frames=[None, shown])


def progress(*keys: RLE | None) -> Trajectory:
    """A turn per mask on its key frame."""
    return trajectory([*[select()] * (len(keys) - 1), answer()], key_masks=list(keys))


CASES: dict[str, list[tuple[Trajectory, float | None]]] = {
    "strict_format": [
        (one(answer()), 1.0),
        (one(select(), stop=MAX_TURNS), 1.0),  # never answers
        (trajectory([answer(), select()], MALFORMED), 1.0),
        (trajectory([], TOO_LONG), 0.0),
        (one("nonsense", stop=MALFORMED), -1.0),
        (trajectory([select(), "nonsense"], MALFORMED), -1.0),
        (one("before" + block(FIELDS) + "after", stop=MALFORMED), 1.0),
        (one("<think></think></think>" + block(FIELDS, before=""), stop=MALFORMED), 1.0),
        (one(block(FIELDS.replace('"', "'")), stop=MALFORMED), -1.0),  # JSON only
        (one(block('{"start": 2, "end": 6}'), stop=MALFORMED), -1.0),
        (one(block("[1, 2]"), stop=MALFORMED), -1.0),
        (one(block('{"start": null, "end": "x", "keyframe": 1.5, "more": 0}'), stop=MALFORMED), 1.0),
        (one(block(FIELDS, ref="it"), stop=MALFORMED), -1.0),
        (one(block(FIELDS, before=""), stop=MALFORMED), -1.0),
        (one(block(FIELDS) + "<answer>", stop=MALFORMED), 1.0),  # the first block counts
        (one(block("no") + block(FIELDS), stop=MALFORMED), -1.0),
        (one("<think>x</think><answer><RefSeg>[SEG]</RefSeg></answer>", stop=MALFORMED), -1.0),
        (one(f"<think>x</think><answer><VTG>{FIELDS}</VTG> [SEG]</answer>", stop=MALFORMED), -1.0),
        (one(block(FIELDS).replace("</answer>", "</select>"), stop=MALFORMED), -1.0),
        (one("<think>x</think> so " + block(FIELDS, before=""), stop=MALFORMED), -1.0),
        (one("<think>x\ny</think>\n" + block(FIELDS.replace(",", ",\n"), before="")), 1.0),
    ],
    "step_format": [
        (one(answer()), 1.0),
        (one("<think>Step 11, step 2, interaction</think>", stop=MALFORMED), 0.75),  # substrings
        (one("<THINK>step 1 step 2</THINK>", stop=MALFORMED), 0.5),
        (one("<think>step  1</think>", stop=MALFORMED), 0.0),
        (one("<think>a</think><think>step 1</think>", stop=MALFORMED), 0.0),  # the first thinking only
        (one("step 1 step 2 step 3 action", stop=MALFORMED), 0.0),
        (one("<think>step 1 step 2 step 3 action", stop=MALFORMED), 0.0),
        (one("<think>Step 1\nACTION</think>", stop=MALFORMED), 0.5),
        (trajectory([answer(), "none"], MALFORMED), 0.5),
        (trajectory([], TOO_LONG), 0.0),
    ],
    "vtg_iou_dense": [
        (one(block(FIELDS)), PERFECT),
        (one(block('{"start": 3, "end": 4}')), 0.4999995231628418),  # one frame inside: a precision
        (one(answer(2, 5)), 0.49999985098838806),  # the wire's last frame 5 is read as excluded
        (one(block('{"start": 2, "end": 10}')), -0.5),  # 4 / (8 + 1e-6) falls below one half
        (one(block('{"start": 2, "end": 9}')), 0.2857142388820648),
        (one(block('{"start": -5, "end": 99}')), -0.5),
        (one(block('{"start": -5, "end": 99}'), gold=(TARGET,) * T), OF_TEN),  # clamped to the video
        (one(block('{"start": 6, "end": 2}')), -0.5),
        (one(block('{"start": 0, "end": 32}'), gold=(TARGET,) * 16 + (None,) * 24), 0.25),  # 1e-6 is lost on 32
        (trajectory([block('{"start": 8, "end": 9}', tag="select"), block(FIELDS)]), PERFECT),  # the last turn
        (trajectory([block(FIELDS, tag="select"), block('{"start": 8, "end": 9}')]), -0.5),
        (one(block(FIELDS).replace("</answer>", "</select>"), stop=MALFORMED), -0.5),
        # A <select> without <VTG> reaches over the next block, and takes the rest of the text with it.
        (one("<select>a</select>" + block(FIELDS) + block('{"start": 8, "end": 9}') + "</select>"), PERFECT),
        (one(block('{"start": 4, "end": 4}')), -0.5),
        (one(block("{'start': 2, 'end': '6',}")), PERFECT),  # a Python literal
        (one(block("{'start': 0x2, 'end': 6, 'keyframe': 1_0}")), PERFECT),
        (one(block("{'start': None, 'end': 6}")), -0.5),
        (one(block('{"start": 2, "end": 6, "keyframe": NaN}')), -0.5),
        (one(block("[2, 6]")), -0.5),
        (one(block('{"end": 6, "start": null}')), -0.5),
        (one("no"), -0.5),
        (trajectory([], TOO_LONG), -0.5),
        (one(block(FIELDS), gold=NO_TARGET), 0.5),
        (one(block('{"start": 6, "end": 2}'), gold=NO_TARGET), -0.5),
        (one(block(FIELDS), gold=()), None),
    ],
    "vtg_keyframe": [
        (one(block('{"keyframe": 2}')), 1.0),
        (one(block('{"keyframe": 6}')), -1.0),
        (one(block("{}")), -1.0),  # a missing key is frame 0
        (one(block("{}"), gold=(TARGET, *NO_TARGET[1:])), 1.0),
        (one(block('{"keyframe": 99}'), gold=(*NO_TARGET[1:], TARGET)), 1.0),  # clamped to the last frame
        (one(block('{"keyframe": True}'), gold=(None, TARGET, *NO_TARGET[2:])), 1.0),  # True is 1
        (one(block('{"keyframe": -3}'), gold=(TARGET, *NO_TARGET[1:])), 1.0),  # and to the first
        (trajectory([block('{"keyframe": 7}', tag="select"), block('{"keyframe": 3}')]), 1.0),
        (trajectory([block('{"keyframe": 3}', tag="select"), block('{"keyframe": 7}')]), -1.0),
        (one(block('{"keyframe": 3}') + block('{"keyframe": 7}')), -1.0),  # the last block counts
        (one(block('{"keyframe": 3.9}', tag="select"), stop=MAX_TURNS), 1.0),
        (one(block('{"keyframe": 3}'), gold=NO_TARGET), -1.0),
        (trajectory([], TOO_LONG), -1.0),
        (one(block('{"keyframe": 3}'), gold=()), None),
    ],
    "maskiou_dense": [
        (one(answer(), masks={2: TARGET}), 1.5),
        (one(answer(), masks={2: HALF}), 0.0),
        (one(answer(), masks={2: EMPTY}), -1.0),
        (one(answer(), masks={2: J_600}), 0.6),
        (one(answer(), masks={2: J_444}), 3 * (16 / 36 - 0.4)),
        (one(answer(), masks={2: J_391}), 0.0),
        (one(answer(), masks={2: J_231}), 0.0),
        (one(answer(), masks={2: J_167}), -1.0),
        (one(answer(), masks={2: TARGET, 3: HALF, 4: EMPTY, 8: EMPTY}), (1.5 + 0 - 1 + 1.5) / 4),
        (one(select(), stop=MAX_TURNS, masks={2: TARGET}), 1.5),  # no answer needed
        (one(answer()), -1.0),
        (trajectory([], TOO_LONG), 0.0),
        (one(answer(), masks={2: TARGET}, gold=()), None),
    ],
    "keyframe_vs_mask_dense": [
        (one(answer(), masks={2: HALF}, key_masks=[TARGET]), 0.0),  # one turn
        (trajectory([select(), answer()], masks={2: HALF}, key_masks=[None, TARGET]), 0.5),  # the top tier never wins
        (trajectory([select(), answer()], masks={2: TARGET}, key_masks=[None, TARGET]), 0.0),
        (trajectory([select(), answer()], masks={2: TARGET}, key_masks=[None, HALF]), -1.0),
        (vs_mask(TARGET, TARGET, TARGET, J_600), 0.5),  # 1 - 2.6 / 3 = .133
        (vs_mask(J_391, HALF), 0.0),  # .058
        (vs_mask(J_563, J_600), 0.0),  # -.038
        (vs_mask(HALF, J_391), -1.0),  # -.058
        (vs_mask(None, TARGET), -1.0),
        (trajectory([select(), answer()], masks={8: EMPTY}, key_masks=[None, TARGET]), 0.0),
        # Both empty: 0 on the key frame, 1 in the video.
        (trajectory([select(), answer(key_frame=8)], masks={8: EMPTY}, key_masks=[None, EMPTY]), -1.0),
        (trajectory([select(), answer()], key_masks=[None, TARGET]), 0.5),
        # On the frame that the turn was shown, whatever it names; and for text that does not parse.
        (vs_mask(TARGET, TARGET, shown=8), -1.0),
        (vs_mask(TARGET, HALF, shown=4, key_frame=8), 0.5),
        (trajectory([select(), "[SEG]"], MALFORMED, {2: HALF}, [None, TARGET], mask_frames=[5, 3]), 0.5),
        (trajectory([select(), answer()], key_masks=[None, TARGET], gold=()), None),
    ],
    "progressive_keyframe_dense": [
        (one(answer(), key_masks=[TARGET]), 0.0),
        (trajectory([select(), answer()], key_masks=[HALF, TARGET]), 0.5),
        (trajectory([select(), answer()], key_masks=[TARGET, TARGET]), 0.0),
        (trajectory([select(), answer()], key_masks=[TARGET, HALF]), -1.0),
        (progress(HALF, J_391), 0.5),  # .058
        (progress(J_563, J_600), 0.0),  # .038
        (progress(J_600, J_563), 0.0),
        (progress(J_391, HALF), -1.0),
        (progress(TARGET, None), -1.0),
        (progress(TARGET, HALF, TARGET), 0.0),  # the best earlier turn, not the one before
        (trajectory([select()] * 3, MAX_TURNS, key_masks=[TARGET, EMPTY, TARGET]), 0.0),
        (trajectory([select(), answer(key_frame=8)], key_masks=[HALF, EMPTY]), -1.0),
        (trajectory([select(), answer()], key_masks=[HALF, TARGET], mask_frames=[5, 8]), -1.0),
        (trajectory([select(key_frame=8), answer()], key_masks=[HALF, TARGET], mask_frames=[5, None]), 0.5),
        (trajectory([select(), "[SEG]"], MALFORMED, key_masks=[HALF, TARGET], mask_frames=[5, 3]), 0.5),
        (trajectory([select(), answer()], key_masks=[HALF, TARGET], gold=()), None),
    ],
}


# One whole episode, as the released code decodes it: masks of frames 0, 2, 4, 6 and 9 of ten; the first key mask on the
# middle frame, the second on frame 3, which the first turn selected. Frame 7, which the answer names, has none.
EPISODE = trajectory(
    [select(key_frame=3), answer(2, 5, key_frame=7)],
    masks={0: EMPTY, 2: TARGET, 4: HALF, 6: TARGET, 9: EMPTY},
    key_masks=[HALF, TARGET],
    mask_frames=[5, 3],
)
EPISODE_SCORES = {
    "o3_strict_format": 1.0,
    "o3_step_format": 1.0,
    "o3_vtg_iou_dense": 0.49999985098838806,  # [2, 5): three frames, all of which show the target
    "o3_vtg_keyframe": -1.0,  # frame 7 does not
    "o3_maskiou_dense": (1.5 + 1.5 + 0 - 1 + 1.5) / 5,  # over J = 1, 1, 1/3, 0, 1
    "o3_keyframe_vs_mask_dense": 0.5,  # 1 - (1 + 1 + 1/3 + 0 + 1) / 5
    "o3_progressive_keyframe_dense": 0.5,  # 1 - 1/3
}


def test_a_whole_episode_scores_what_the_released_code_adds_up():
    scores = score(EPISODE, PROFILES["videoseg_o3"])
    assert scores.breakdown == pytest.approx(EPISODE_SCORES)
    assert scores.total == pytest.approx(3.199999850988388)


@pytest.mark.parametrize(
    ("name", "case", "expected"), [(name, case, value) for name, rows in CASES.items() for case, value in rows]
)
def test_released_reward(name: str, case: Trajectory, expected: float | None):
    value = REWARDS[f"o3_{name}"](case)
    assert value is None if expected is None else value == pytest.approx(expected, abs=1e-15)


def test_the_profile_adds_up_all_seven_with_weight_1():
    assert PROFILES["videoseg_o3"] == {f"o3_{name}": 1.0 for name in CASES}
    assert len(CASES) == 7 and all(len(rows) >= 6 for rows in CASES.values())


def test_thresholds_keep_the_rounding_of_floats():
    assert tier_score(RELEASED_DELTA_KEY_MASK, 0.5 + 0.1 - 0.5) == 0.0  # 0.0999..
    assert tier_score(RELEASED_DELTA_KEY_MASK, 0.6 - 0.45) == 0.5
    assert [tier_score(RELEASED_MASK_IOU, value) for value in (0.2, 0.4, 0.9, 1.0)] == [-1.0, 0.0, 1.5, 1.5]


@pytest.mark.parametrize(
    "text",
    [
        "<think>" * 20_000,
        "<think>" + "</think><answer>" * 10_000,
        "<select><VTG></VTG>" * 10_000,
        "<select>" * 20_000 + "<VTG></VTG>",
        block("-" * 100_000 + "1"),
        block("(" * 4000),
        block("[" * 2000 + "]" * 2000),
        block('{"start": ' + "9" * 4000 + "}"),
        THINKING + block('{"start": 1e999, "end": 2}'),
    ],
)
def test_hostile_text_scores_the_floor(text: str):
    """Some of these take hours with the released regular expressions."""
    case = one(text, stop=MALFORMED)
    assert [REWARDS[f"o3_{name}"](case) for name in ("vtg_iou_dense", "vtg_keyframe")] == [-0.5, -1.0]
    assert REWARDS["o3_strict_format"](case) == -1.0
