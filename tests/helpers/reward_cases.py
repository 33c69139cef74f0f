"""Trajectories built by hand for the tests of rewards: ten frames of 8 x 8 with a 4 x 4 target on frames 2 to 5."""

from __future__ import annotations

import numpy as np

from env.actions import format_decision, parse_action
from env.rle import encode
from env.types import RLE, Action, Answer, Interval, Observation, Select, StopReason, Task, Trajectory, Turn, VideoRef

T, SIDE = 10, 8
THINKING = (
    "<think>Step 1 (temporal) it enters. Step 2 (spatial) left. Step 3 (linguistic) the dog. Action answer.</think>"
)


def square(top: int = 2, left: int = 2, side: int = 4) -> RLE:
    mask_HW = np.zeros((SIDE, SIDE), bool)
    mask_HW[top : top + side, left : left + side] = True
    return encode(mask_HW)


EMPTY = square(side=0)
TARGET = square()
HALF = square(left=4)  # shares 8 of 16 pixels with TARGET: J = 8 / 24
GOLD = tuple(TARGET if 2 <= frame_idx < 6 else None for frame_idx in range(T))


def make_task(gold: tuple[RLE | None, ...] = GOLD) -> Task:
    return Task("made/video/0", VideoRef("", "video", (), T, SIDE, SIDE), "the square", gold)


def answer(start: int = 2, last: int = 5, key_frame: int = 3, thinking: str = THINKING) -> str:
    return f"{thinking}\n{format_decision(Answer(Interval(start, last + 1), key_frame))}"


def select(start: int = 2, last: int = 5, key_frame: int = 3, thinking: str = THINKING) -> str:
    return f"{thinking}\n{format_decision(Select(Interval(start, last + 1), key_frame))}"


def trajectory(
    texts: list[str],
    stop: StopReason = StopReason.ANSWERED,
    masks: dict[int, RLE] | None = None,
    key_masks: list[RLE | None] | None = None,
    gold: tuple[RLE | None, ...] = GOLD,
    mask_frames: list[int | None] | None = None,
) -> Trajectory:
    """Build a trajectory whose turns are parsed from `texts` as the environment does.

    Args:
        texts: the action of each turn.
        stop: why the episode ended.
        masks: predicted masks by frame index.
        key_masks: the mask of each turn's key frame (default: none).
        gold: one true mask per frame, None where the target is absent.
        mask_frames: the frame on which each key mask was decoded (default: none).
    """
    kept, frames = key_masks or [None] * len(texts), mask_frames or [None] * len(texts)
    turns = [
        Turn(Observation(()), Action(text), parse_action(text, T), key_mask=key_mask, mask_frame=mask_frame)
        for text, key_mask, mask_frame in zip(texts, kept, frames, strict=True)
    ]
    return Trajectory("0/made/video/0/0", make_task(gold), 0, 0, turns, stop, masks=masks or {})


MAX_TURNS, MALFORMED, TOO_LONG = StopReason.MAX_TURNS, StopReason.MALFORMED, StopReason.TOO_LONG
SINGLE_PASS = StopReason.SINGLE_PASS  # of a model family without turns
NO_TARGET: tuple[RLE | None, ...] = (None,) * T
