"""What every reward is made of: its type, and the questions that many of them ask of a trajectory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from env.errors import DataError
from env.rle import decode, is_empty
from env.types import RLE, Answer, StopReason, Trajectory
from rewards.jf import region_j

# A number, or None where the reward does not apply to the trajectory (it is then left out of the sum).
RewardFn = Callable[[Trajectory], float | None]


def final_answer(trajectory: Trajectory) -> Answer | None:
    """The answer that ended the episode; None where it ended in another way."""
    decision = trajectory.decision
    if trajectory.stop_reason is StopReason.ANSWERED and isinstance(decision, Answer):
        return decision
    return None


def text_between(text: str, opening: str, closing: str) -> str | None:
    """What stands between the first `opening` and the first `closing` after it; None where there is no such pair.

    As a lazy regular expression finds it, but in linear time on whatever a model may write.
    """
    start = text.find(opening)
    end = text.find(closing, start + len(opening)) if start >= 0 else -1
    return text[start + len(opening) : end] if end >= 0 else None


def visible_frames(trajectory: Trajectory) -> set[int]:
    """Source frames in which the target is visible; empty where it never is, or where gold is unknown."""
    return {frame_idx for frame_idx, rle in enumerate(trajectory.task.gold) if not is_empty(rle)}


def gold_mask(trajectory: Trajectory, frame_idx: int) -> np.ndarray:
    """The gold mask [H, W] of one frame. DataError where the frame has none, as outside of the video."""
    task = trajectory.task
    if not 0 <= frame_idx < len(task.gold):
        raise DataError(
            f"trajectory {trajectory.trajectory_id}, frame {frame_idx}",
            f"expected a frame of the {len(task.gold)} that have gold masks in task {task.task_id}",
        )
    rle = task.gold[frame_idx]
    if rle is None:
        return np.zeros((task.video.height, task.video.width), bool)
    return decode(rle, f"task {task.task_id}, gold mask of frame {frame_idx}")


def mask_pair(trajectory: Trajectory, frame_idx: int, predicted: RLE) -> tuple[np.ndarray, np.ndarray]:
    """Gold and predicted mask [H, W] of one frame; DataError where their sizes differ."""
    where = f"trajectory {trajectory.trajectory_id}, predicted mask of frame {frame_idx}"
    gold_HW, pred_HW = gold_mask(trajectory, frame_idx), decode(predicted, where)
    if gold_HW.shape != pred_HW.shape:
        raise DataError(where, f"expected the size of the gold mask, {gold_HW.shape}, found {pred_HW.shape}")
    return gold_HW, pred_HW


def frame_j(trajectory: Trajectory, frame_idx: int, predicted: RLE) -> float:
    """J of one predicted mask; 1 where it and the gold mask are empty."""
    return region_j(*mask_pair(trajectory, frame_idx, predicted))
