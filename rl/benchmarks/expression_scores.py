"""Masks of expressions against gold, frame by frame: the rows that `rl.benchmarks.protocols` averages.

Only one frame of a video is decoded at a time, since long videos do not fit in memory whole.
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
    """What was predicted for one expression: a mask per frame, None where it is empty."""

    masks: tuple[RLE | None, ...]  # [T]
    is_missing: bool = False  # nothing at all was predicted
    num_missing_frames: int = 0  # of a prediction that is there


@dataclass
class FrameScores:
    """What each frame that counts gave: lists [S]."""

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


def missing(task: Task) -> Prediction:
    """Nothing was predicted: an empty mask in every frame."""
    return Prediction((None,) * task.video.num_frames, is_missing=True)


def frame_names(task: Task) -> tuple[str, ...]:
    """Names of a video's frames without suffix; numbers of five digits for a video file."""
    return task.video.frames or tuple(f"{at:05d}" for at in range(task.video.num_frames))


def foreground(tasks: Sequence[Task]) -> tuple[RLE | None, ...]:
    """Per frame the union of the gold masks of all expressions of one video."""
    of_object = {tuple(rle and rle["counts"] for rle in task.gold): task.gold for task in tasks}  # many share one
    frames = range(tasks[0].video.num_frames)
    return tuple(union([gold[t] for gold in of_object.values()], f"{tasks[0].task_id}, frame {t}") for t in frames)


def score(
    protocol: BenchmarkProtocol, task: Task, prediction: Prediction, annotated: Sequence[RLE | None] | None
) -> dict[str, Any]:
    """The row of one expression. `annotated` is the video's `foreground`, which only "r" asks for.

    DataError where the prediction has another number of frames or another size than the gold masks, and without those.
    """
    video = task.video
    if not task.gold:
        raise DataError(task.task_id, "its gold masks are unknown, those of the benchmark's first task are known")
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
        **{name: METRICS[name](frames) for name in protocol.figures},
    }


def _add_frame(
    frames: FrameScores, protocol: BenchmarkProtocol, gold_HW: np.ndarray, pred_HW: np.ndarray, annotated: RLE | None
) -> None:
    j, f = frame_jf(gold_HW, pred_HW)
    frames.j.append(j)
    frames.f.append(f)
    frames.has_gold.append(bool(gold_HW.any()))
    frames.has_pred.append(bool(pred_HW.any()))
    if "a" in protocol.figures:
        frames.a.append(pixel_accuracy(gold_HW, pred_HW))
    if "r" in protocol.figures:
        frames.r.append(robustness(gold_HW, pred_HW, mask_or_empty(annotated, *gold_HW.shape)))
