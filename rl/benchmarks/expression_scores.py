"""Compare the masks of an expression with gold, frame by frame: the rows that `rl.benchmarks.protocols` averages.

One frame of a video is decoded at a time, since long videos do not fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from env.errors import DataError
from env.rle import is_empty, mask_or_empty, union
from env.types import RLE, Task
from rewards.jf import frame_jf
from rewards.video_metrics import pixel_accuracy, robustness, temporal_iou, video_iou
from rl.benchmarks.protocols import BenchmarkProtocol


@dataclass(frozen=True)
class Prediction:
    """The predicted masks of one expression: one per frame, None where it is empty."""

    masks: tuple[RLE | None, ...]  # [T]
    is_missing: bool = False  # there is no prediction at all
    num_missing_frames: int = 0  # frames without a mask file, where there is a prediction
    error: str = ""  # why the model failed on it, where it did; there is no answer then


@dataclass
class FrameScores:
    """Scores of the frames that count: lists [S]."""

    j: list[float] = field(default_factory=list)
    f: list[float] = field(default_factory=list)
    a: list[float] = field(default_factory=list)
    r: list[float] = field(default_factory=list)
    has_gold: list[bool] = field(default_factory=list)
    has_pred: list[bool] = field(default_factory=list)


METRICS: dict[str, Callable[[FrameScores], float]] = {
    "j": lambda frames: float(np.mean(frames.j)),
    "f": lambda frames: float(np.mean(frames.f)),
    "a": lambda frames: float(np.mean(frames.a)),
    "r": lambda frames: float(np.mean(frames.r)),
    "tiou": lambda frames: temporal_iou(np.array(frames.has_gold), np.array(frames.has_pred)),
    "viou": lambda frames: video_iou(np.array(frames.j), np.array(frames.has_gold), np.array(frames.has_pred)),
}


def missing(task: Task, error: str = "") -> Prediction:
    """Return a missing prediction, which is an empty mask in every frame; `error` says why the model failed, if so."""
    return Prediction((None,) * task.video.num_frames, is_missing=not error, error=error)


def frame_names(task: Task) -> tuple[str, ...]:
    """Return the names of a video's frames without suffix; numbers of five digits for a video file."""
    return task.video.frames or tuple(f"{at:05d}" for at in range(task.video.num_frames))


def foreground(tasks: Sequence[Task]) -> tuple[RLE | None, ...]:
    """Return, per frame, the union of the gold masks of all expressions of one video."""
    of_object = {
        tuple(rle and rle["counts"] for rle in task.gold): task.gold for task in tasks
    }  # many expressions have one object
    frames = range(tasks[0].video.num_frames)
    return tuple(union([gold[t] for gold in of_object.values()], f"{tasks[0].task_id}, frame {t}") for t in frames)


def expression_metrics(
    protocol: BenchmarkProtocol, task: Task, prediction: Prediction, annotated: Sequence[RLE | None] | None
) -> dict[str, Any]:
    """Compute the row of one expression.

    Args:
        protocol: Which frames count, and which metrics.
        task: With gold masks [T, H, W].
        prediction: Its predicted masks.
        annotated: `foreground` of the video, which only the metric "r" needs.

    Returns:
        "task_id", "subset", what is missing or empty, and the metrics of `protocol`, 0..1.

    Raises:
        DataError: The prediction has another number of frames or another size than the gold masks, or there are none.
    """
    video = task.video
    if not task.gold:
        raise DataError(task.task_id, "has no gold masks, although the benchmark's first task has")
    if len(prediction.masks) != video.num_frames:
        raise DataError(task.task_id, f"expected {video.num_frames} masks, found {len(prediction.masks)}")
    frames = FrameScores()
    for t in protocol.frames(video.num_frames):
        pair = (task.gold[t], prediction.masks[t])
        gold_HW, pred_HW = (mask_or_empty(rle, video.height, video.width) for rle in pair)
        if pred_HW.shape != gold_HW.shape:
            raise DataError(f"{task.task_id}, frame {t}", f"expected masks of {gold_HW.shape}, found {pred_HW.shape}")
        _add_frame(frames, protocol, gold_HW, pred_HW, annotated[t] if annotated else None)
    return {
        "task_id": task.task_id,
        "subset": task.subset,
        "has_target": any(not is_empty(rle) for rle in task.gold),
        "is_empty": not any(frames.has_pred),
        "is_missing": prediction.is_missing,
        "num_missing_frames": prediction.num_missing_frames,
        **({"error": prediction.error} if prediction.error else {}),
        **{name: METRICS[name](frames) for name in protocol.metrics},
    }


def _add_frame(
    frames: FrameScores, protocol: BenchmarkProtocol, gold_HW: np.ndarray, pred_HW: np.ndarray, annotated: RLE | None
) -> None:
    j, f = frame_jf(gold_HW, pred_HW)
    frames.j.append(j)
    frames.f.append(f)
    frames.has_gold.append(bool(gold_HW.any()))
    frames.has_pred.append(bool(pred_HW.any()))
    if "a" in protocol.metrics:
        frames.a.append(pixel_accuracy(gold_HW, pred_HW))
    if "r" in protocol.metrics:
        frames.r.append(robustness(gold_HW, pred_HW, mask_or_empty(annotated, *gold_HW.shape)))
