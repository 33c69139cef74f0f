"""Rewards for where in time the policy points. They do not apply where the target is never visible."""

from __future__ import annotations

from env.types import Trajectory
from rewards.base import final_answer, visible_frames


def interval_iou(trajectory: Trajectory) -> float | None:
    """IoU, 0..1, of the answered interval and the frames that show the target, as sets.

    Edge cases: 0 without an answer; below 1 for every interval where the target comes and goes; None where the target
    is never visible or gold is unknown.
    Why: says when. A precision, as released, is best served by a single frame.
    """
    visible = visible_frames(trajectory)
    if not visible:
        return None
    answer = final_answer(trajectory)
    if answer is None:
        return 0.0
    shared = sum(frame_idx in answer.interval for frame_idx in visible)
    return shared / (len(visible) + len(answer.interval) - shared)


def key_frame(trajectory: Trajectory) -> float | None:
    """1 where the answered key frame shows the target, else 0.

    Edge cases: 0 without an answer; one visible pixel will do; None where the target is never visible or gold is
    unknown.
    Why: SAM 2 starts there. A frame without the target loses the whole video, however good the prompt.
    """
    visible = visible_frames(trajectory)
    if not visible:
        return None
    answer = final_answer(trajectory)
    return float(answer is not None and answer.key_frame in visible)
