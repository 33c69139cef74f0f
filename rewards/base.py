"""The type of a reward, and the questions that many rewards ask of a trajectory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from env.errors import DataError
from env.rle import decode, is_empty
from env.types import RLE, Answer, StopReason, Trajectory
from rewards.jf import region_j

# A number, or None where the reward does not apply to the trajectory; None is left out of the sum.
RewardFn = Callable[[Trajectory], float | None]


def final_answer(trajectory: Trajectory) -> Answer | None:
    """Return the answer that ended the episode; None where it ended in another way."""
    decision = trajectory.decision
    if trajectory.stop_reason is StopReason.ANSWERED and isinstance(decision, Answer):
        return decision
    return None


def is_single_pass(trajectory: Trajectory) -> bool:
    """Return whether a model family without turns made the trajectory: it has masks, but no text and no interval."""
    return trajectory.stop_reason is StopReason.SINGLE_PASS


def has_prediction(trajectory: Trajectory) -> bool:
    """Return whether the masks are the model's prediction: it answered, or it has no turns to answer in.

    The masks of an episode that ended in another way are those of a turn that was not meant to be the last.
    """
    return is_single_pass(trajectory) or final_answer(trajectory) is not None


def text_between(text: str, opening: str, closing: str) -> str | None:
    """Return the text between the first `opening` and the first `closing` after it; None where there is no such pair.

    The result is that of a lazy regular expression, but it takes linear time on any text that a model may write.

    Args:
        text: Where to search.
        opening: Such as `<think>`.
        closing: Such as `</think>`.

    Returns:
        The text between them, which may be empty.
    """
    start = text.find(opening)
    end = text.find(closing, start + len(opening)) if start >= 0 else -1
    return text[start + len(opening) : end] if end >= 0 else None


def visible_frames(trajectory: Trajectory) -> set[int]:
    """Return the source frames that show the target; empty where none does, or where gold is unknown."""
    return {frame_idx for frame_idx, rle in enumerate(trajectory.task.gold) if not is_empty(rle)}


def gold_mask(trajectory: Trajectory, frame_idx: int) -> np.ndarray:
    """Return the gold mask of one frame, bool [H, W]. DataError where the frame has none, as outside the video."""
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
    """Return the gold and the predicted mask of one frame.

    Args:
        trajectory: Whose task has the gold masks.
        frame_idx: Source frame.
        predicted: The predicted mask of that frame.

    Returns:
        Two bool arrays [H, W].

    Raises:
        DataError: Their sizes differ, or the frame has no gold mask.
    """
    where = f"trajectory {trajectory.trajectory_id}, predicted mask of frame {frame_idx}"
    gold_HW, pred_HW = gold_mask(trajectory, frame_idx), decode(predicted, where)
    if gold_HW.shape != pred_HW.shape:
        raise DataError(where, f"expected the size of the gold mask, {gold_HW.shape}, found {pred_HW.shape}")
    return gold_HW, pred_HW


def frame_j(trajectory: Trajectory, frame_idx: int, predicted: RLE) -> float:
    """Return J of the predicted mask of one frame, 0..1; 1 where it and the gold mask are empty.

    Args:
        trajectory: Whose task has the gold masks.
        frame_idx: Source frame.
        predicted: The predicted mask of that frame.

    Returns:
        Intersection over union.

    Raises:
        DataError: As `mask_pair`.
    """
    return region_j(*mask_pair(trajectory, frame_idx, predicted))
