"""Malformed last texts: the frame that VideoSEG-O3 would start from, and the masks of their [SEG] where wanted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.load import load_config
from cot_data.datasets import load_tasks
from cot_data.traces.dialogue import to_trajectory
from cot_data.traces.write import write_trace
from env.actions import format_decision, parse_action
from env.frames import FrameCache, FrameCaches
from env.types import (
    Action,
    Answer,
    Decision,
    FrameRef,
    Interval,
    Malformed,
    Observation,
    Select,
    StopReason,
    Task,
    Trajectory,
    Turn,
    VideoRef,
)
from policy import SHIPPED
from policy.videoseg.checkpoint import load_policy
from policy.videoseg.start_frame import is_decoded, start_frame
from policy.videoseg.tracking import with_masks

ANSWER = format_decision(Answer(Interval(2, 9), 7))
SELECT = format_decision(Select(Interval(2, 9), 6))
CHOSEN = Select(Interval(0, 4), 3)
NUM_FRAMES = 20


def episode(text: str, *earlier: Decision, large: tuple[int, ...] = (0, 10, 19)) -> Trajectory:
    """Return an episode whose last text could not be parsed."""
    details = tuple(FrameRef(frame_idx, 8, 8, "detail") for frame_idx in large)
    decision = parse_action(text, NUM_FRAMES)
    assert isinstance(decision, Malformed)
    turns = [Turn(Observation(details), Action(""), each) for each in (*earlier, decision)]
    task = Task("s/v/0", VideoRef("r", "v", (), NUM_FRAMES, 8, 8), "dog", ())
    return Trajectory("0/s/v/0/0", task, 0, 0, [*turns[:-1], replace(turns[-1], action=Action(text))])


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (episode("it is [SEG]"), 10),  # the middle one of the large frames
        (episode("it is [SEG]", large=(0, 5, 9, 14)), 9),
        (episode("it is [SEG]", large=()), 10),  # of the video
        (episode("Sure! " + ANSWER), 7),
        (episode("Sure! " + ANSWER, CHOSEN), 3),  # as the release: a selected frame goes before the answer's
        (episode("Sure! " + SELECT, CHOSEN), 6),
        (episode("it is [SEG]", CHOSEN, Select(Interval(0, 4), 2)), 2),
        (episode(ANSWER.replace('"keyframe": 7', '"keyframe": 99')), 19),
        (episode("Sure! " + ANSWER.replace('"keyframe": 7', '"key": 7')), 10),
    ],
)
def test_the_frame_to_start_from(found: Trajectory, expected: int):
    assert start_frame(found) == expected


def test_a_decision_starts_from_its_own_key_frame():
    found = episode("x [SEG]", CHOSEN)
    found.turns[-1].decision = Answer(Interval(0, 4), 1)
    assert start_frame(found) == 1


@pytest.mark.parametrize(
    ("decision", "stop", "malformed", "expected"),
    [
        (Malformed("tags"), StopReason.MALFORMED, "empty", False),
        (Malformed("tags"), StopReason.MALFORMED, "decode", True),
        (Malformed("cut_off"), StopReason.TOO_LONG, "decode", True),
        (Malformed("tags"), StopReason.ERROR, "decode", False),
        (Malformed("media_token"), StopReason.MALFORMED, "decode", False),
        (CHOSEN, StopReason.MAX_TURNS, "empty", True),
    ],
)
def test_which_episodes_are_decoded(decision: Decision, stop: StopReason, malformed: str, expected: bool):
    found = episode("x [SEG]")
    found.turns[-1].decision, found.stop_reason = decision, stop
    assert is_decoded(found, malformed) is expected
    found.turns.clear()
    assert not is_decoded(found, malformed)


def test_malformed_text_has_the_masks_of_its_seg(shapes: Path):
    """They are those of the same text with a decision put in by hand."""
    env, frames = load_config("tiny").env, FrameCaches(FrameCache(), FrameCache())
    task = next(task for task in load_tasks("mevis", shapes) if any(task.gold))
    written = to_trajectory(write_trace(task, env, np.random.default_rng(0), "brief"), task, env)
    key_frame = written.turns[-1].decision.key_frame  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    policy = load_policy(SHIPPED)

    def segmented(decision: Decision, malformed: str, text: str = "") -> Trajectory:
        last = written.turns[-1]
        turn = replace(last, action=Action(text or f"So: {last.action.text}"), decision=decision)
        item = replace(written, turns=[*written.turns[:-1], turn], stop_reason=StopReason.MALFORMED, masks={})
        (found,) = with_masks(policy, [item], frames, malformed)
        return found

    bad = Malformed("outside_text")
    by_hand = segmented(Answer(Interval(0, 1), start_frame(segmented(bad, "empty"))), "empty")
    found = segmented(bad, "decode")
    assert found.masks == by_hand.masks and len(found.masks) == task.video.num_frames
    assert found.turns[-1].key_mask_frame == start_frame(found) in (key_frame, CHOSEN.key_frame, start_frame(by_hand))
    assert segmented(bad, "empty").masks == {} and segmented(bad, "empty").turns[-1].key_mask is None
    assert segmented(bad, "decode", "no token here").masks == {}, "of earlier turns' [SEG] none is decoded"
