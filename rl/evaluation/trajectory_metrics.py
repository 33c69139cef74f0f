"""The metrics of one segmented trajectory. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np

from env.rle import decode_tracklet
from env.tools import TOOLS, num_uses
from env.types import Answer, Malformed, Select, StopReason, Trajectory
from rewards.jf import tracklet_jf

METRICS = ("jf", "j", "f", "j_visible", "interval_iou", "key_hit", "format", "turns", "tool_use")


def measure(trajectory: Trajectory) -> dict[str, Any]:
    """Return the metrics of one trajectory: 0..1, but `turns`, and None where a metric does not apply.

    J and F are means over all frames, where two empty masks count 1 (as in DAVIS and MeViS); `j_visible` is J over the
    frames that show the target. A trajectory without a usable answer has an empty tracklet. What a model family without
    turns does not state (interval, key frame, format, turns, tool use) is None. A trajectory that failed has an empty
    tracklet, and None for format, turns and tool use, since it holds no answer of the policy.
    """
    task = trajectory.task
    video = task.video
    size = (video.height, video.width)
    gold_THW = decode_tracklet(task.gold, size)
    masks = {} if trajectory.has_failed else trajectory.masks
    pred_THW = decode_tracklet([masks.get(at) for at in range(video.num_frames)], size)
    j_T, f_T = tracklet_jf(gold_THW, pred_THW)
    visible_T = gold_THW.any((1, 2)).reshape(-1)
    is_single_pass = trajectory.stop_reason is StopReason.SINGLE_PASS
    of_turns = _turn_metrics(trajectory)
    has_interval = visible_T.any() and not is_single_pass
    of_interval = _interval_metrics(trajectory, visible_T) if has_interval else (None, None)
    return {
        "task_id": task.task_id,
        "family": task.family,
        "explore": task.explore,
        "j": float(j_T.mean()),
        "f": float(f_T.mean()),
        "jf": float((j_T.mean() + f_T.mean()) / 2),
        "j_visible": float(j_T[visible_T].mean()) if visible_T.any() else None,
        "interval_iou": of_interval[0],
        "key_hit": of_interval[1],
        **of_turns,
        "stop": str(trajectory.stop_reason),
    }


def _interval_metrics(trajectory: Trajectory, visible_T: np.ndarray) -> tuple[float, float]:
    """Return (interval IoU, key hit) of the last decision; 0 where there is none to compare with bool [T]."""
    decision = trajectory.decision
    if trajectory.has_failed or not isinstance(decision, Select | Answer):
        return 0.0, 0.0
    inside = [at in decision.interval for at in range(len(visible_T))]
    union = sum(a or b for a, b in zip(inside, visible_T, strict=True))
    shared = sum(bool(a and b) for a, b in zip(inside, visible_T, strict=True))
    return shared / union, float(visible_T[decision.key_frame])


def _turn_metrics(trajectory: Trajectory) -> dict[str, Any]:
    if trajectory.stop_reason in (StopReason.SINGLE_PASS, StopReason.ERROR):
        return dict.fromkeys(("format", "turns", "tool_use", "tool_uses"))
    decisions = [turn.decision for turn in trajectory.turns]
    return {
        "format": float(not any(isinstance(decision, Malformed) for decision in decisions)),
        "turns": len(decisions),
        "tool_use": float(any(isinstance(decision, Select) for decision in decisions)),
        "tool_uses": {name: num_uses(trajectory, tool) for name, tool in TOOLS.items()},
    }
