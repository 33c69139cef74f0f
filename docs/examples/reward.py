"""A reward: how well the answered key frame shows the target."""

from __future__ import annotations

from env.types import Trajectory
from rewards.base import final_answer, gold_mask, is_single_pass, visible_frames


def key_frame_size(trajectory: Trajectory) -> float | None:
    """Return the target's area in the answered key frame over its largest area in the video, 0..1.

    Edge cases: 0 without an answer, and where the key frame does not show the target; None where the target is never
    visible or gold is unknown, and for a model without turns, which answers no key frame.
    Why: SAM 2 starts from the key frame, and a large object gives it more to start from.
    """
    visible = visible_frames(trajectory)
    if not visible or is_single_pass(trajectory):
        return None
    answer = final_answer(trajectory)
    if answer is None or answer.key_frame not in visible:
        return 0.0
    areas = {frame_idx: gold_mask(trajectory, frame_idx).sum() for frame_idx in visible}
    return float(areas[answer.key_frame] / max(areas.values()))
