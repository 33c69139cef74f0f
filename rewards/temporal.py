"""Rewards for interval and key frame. They do not apply where the target is never visible, nor without turns."""

from __future__ import annotations

from env.types import Trajectory
from rewards.base import final_answer, is_single_pass, visible_frames


def interval_iou(trajectory: Trajectory) -> float | None:
    """IoU, 0..1, of the answered interval and the set of frames that show the target.

    Edge cases: 0 without an answer; below 1 for every interval where the target comes and goes; None where the target
    is never visible, where gold is unknown and for a family without turns.
    Why: rewards the right time span. A precision, as in the released code, is highest for a single frame.
    """
    visible = visible_frames(trajectory)
    if not visible or is_single_pass(trajectory):
        return None
    answer = final_answer(trajectory)
    if answer is None:
        return 0.0
    shared = sum(frame_idx in answer.interval for frame_idx in visible)
    return shared / (len(visible) + len(answer.interval) - shared)


def key_frame(trajectory: Trajectory) -> float | None:
    """1 where the answered key frame shows the target, else 0.

    Edge cases: 0 without an answer; one visible pixel is enough; None where the target is never visible, where gold is
    unknown and for a family without turns.
    Why: SAM 2 starts there. A key frame without the target loses the whole video, however good the prompt.
    """
    visible = visible_frames(trajectory)
    if not visible or is_single_pass(trajectory):
        return None
    answer = final_answer(trajectory)
    return float(answer is not None and answer.key_frame in visible)
