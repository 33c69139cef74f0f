"""Rewards for the masks. They do not apply where gold is unknown; an absent target is matched by an empty mask.

A task without a target is scored by abstaining: an answer whose masks are all empty earns what perfect masks earn.
"""

from __future__ import annotations

import numpy as np

from env.types import Trajectory, Turn
from rewards.base import final_answer, frame_j, has_prediction, is_single_pass, mask_pair, visible_frames
from rewards.jf import frame_jf
from rewards.score_tiers import KEY_FRAME_GAIN, tier_score


def mask_iou(trajectory: Trajectory) -> float | None:
    """Mean J, 0..1, over the frames of `trajectory.masks`: some evenly spaced ones and the key frame, or all.

    Edge cases: 0 without an answer or without masks; a frame without the target counts 1 where its mask is empty, else
    0, so that a task without a target scores the share of frames left empty; None where gold is unknown. A family
    without turns needs no answer.
    Why: region overlap is half of the benchmarks' figure, and the cheaper half.
    """
    if not trajectory.task.gold:
        return None
    if not has_prediction(trajectory) or not trajectory.masks:
        return 0.0
    values = [frame_j(trajectory, frame_idx, rle) for frame_idx, rle in sorted(trajectory.masks.items())]
    return float(np.mean(values))


def tracklet_jf(trajectory: Trajectory) -> float | None:
    """Mean J&F, 0..1, over the frames of `trajectory.masks`.

    With `grpo.masks: tracked` those are all frames as inference segments them: SAM 2 carries the key frame's mask
    through the video. Otherwise a sample of frames, each decoded on its own, stands for them.
    Edge cases: those of `mask_iou`.
    Why: it is the figure that benchmarks report. Only tracked masks reward a key frame from which the target can be
    followed.
    """
    if not trajectory.task.gold:
        return None
    if not has_prediction(trajectory) or not trajectory.masks:
        return 0.0
    pairs = [mask_pair(trajectory, frame_idx, rle) for frame_idx, rle in sorted(trajectory.masks.items())]
    return float(np.mean([frame_jf(*pair) for pair in pairs]))


def key_mask_iou(trajectory: Trajectory) -> float | None:
    """J, 0..1, of the answer's mask on its key frame, from which SAM 2 starts.

    Edge cases: 0 without an answer, without that mask, and on a frame that does not show the target although others do;
    where none does 1 for an empty mask, else 0. None where gold is unknown and for a family without turns.
    Why: `key_frame` accepts any visible pixel. This one prefers a frame in which the target is large and unobstructed.
    """
    if not trajectory.task.gold or is_single_pass(trajectory):
        return None
    return 0.0 if final_answer(trajectory) is None else turn_key_j(trajectory, trajectory.turns[-1])


def key_frame_gain(trajectory: Trajectory) -> float | None:
    """Score, -1..2, of the last key-frame J minus the best earlier one, in the tiers that the released code intends.

    Edge cases: -1 without an answer; None with less than two turns, since nothing can be gained, and where gold is
    unknown.
    Why: to compare with the paper's idea of progress. A bad first turn pays here, so the default has `progress`.
    """
    if not trajectory.task.gold or len(trajectory.turns) < 2:
        return None
    if final_answer(trajectory) is None:
        return tier_score(KEY_FRAME_GAIN, -1.0)
    *earlier, last = [turn_key_j(trajectory, turn) for turn in trajectory.turns]
    return tier_score(KEY_FRAME_GAIN, last - max(earlier))


def turn_key_j(trajectory: Trajectory, turn: Turn) -> float:
    """Return J, 0..1, of a turn's mask on its key frame; 0 where it has none or only other frames show the target.

    An empty mask on a frame without the target agrees with gold but shows nothing, so it is no evidence.
    """
    frame_idx, visible = turn.key_mask_frame, visible_frames(trajectory)
    if turn.key_mask is None or frame_idx is None or (visible and frame_idx not in visible):
        return 0.0
    return frame_j(trajectory, frame_idx, turn.key_mask)
