"""Rewards for the masks. They do not apply where gold is unknown; an absent target is matched by an empty mask."""

from __future__ import annotations

import numpy as np

from env.types import Malformed, Trajectory, Turn
from rewards.base import final_answer, frame_j, mask_pair
from rewards.jf import boundary_f, region_j
from rewards.ladders import KEY_FRAME_GAIN, climb


def mask_iou(trajectory: Trajectory) -> float | None:
    """Mean J, 0..1, over the frames of `trajectory.masks`; 0 without an answer or without masks."""
    if not trajectory.task.gold:
        return None
    if final_answer(trajectory) is None or not trajectory.masks:
        return 0.0
    values = [frame_j(trajectory, frame_idx, rle) for frame_idx, rle in sorted(trajectory.masks.items())]
    return float(np.mean(values))


def tracklet_jf(trajectory: Trajectory) -> float | None:
    """Mean J&F, 0..1, over the frames of `trajectory.masks`; 0 without an answer or without masks."""
    if not trajectory.task.gold:
        return None
    if final_answer(trajectory) is None or not trajectory.masks:
        return 0.0
    pairs = [mask_pair(trajectory, frame_idx, rle) for frame_idx, rle in sorted(trajectory.masks.items())]
    return float(np.mean([(region_j(*pair) + boundary_f(*pair)) / 2 for pair in pairs]))


def key_mask_iou(trajectory: Trajectory) -> float | None:
    """J, 0..1, of the mask on the answered key frame; 0 without an answer or without that mask."""
    if not trajectory.task.gold:
        return None
    return 0.0 if final_answer(trajectory) is None else turn_key_j(trajectory, trajectory.turns[-1])


def key_frame_gain(trajectory: Trajectory) -> float | None:
    """Score, -1..2, of the last key-frame J minus the best earlier one; -1 without an answer.

    Does not apply to one-turn episodes, which have nothing to gain on.
    """
    if not trajectory.task.gold or len(trajectory.turns) < 2:
        return None
    if final_answer(trajectory) is None:
        return climb(KEY_FRAME_GAIN, -1.0)
    *earlier, last = [turn_key_j(trajectory, turn) for turn in trajectory.turns]
    return climb(KEY_FRAME_GAIN, last - max(earlier))


def turn_key_j(trajectory: Trajectory, turn: Turn) -> float:
    """J of a turn's mask on its own key frame; 0 where it has no mask."""
    if turn.key_mask is None or isinstance(turn.decision, Malformed):
        return 0.0
    return frame_j(trajectory, turn.decision.key_frame, turn.key_mask)
