"""The figures of one segmented trajectory. Pure."""

from __future__ import annotations

from typing import Any

from env.rle import decode_tracklet
from env.tools import TOOLS, num_uses
from env.types import Answer, Malformed, Select, Trajectory
from rewards.jf import tracklet_jf

METRICS = ("jf", "j", "f", "j_visible", "interval_iou", "key_hit", "format", "turns", "tool_use")


def measure(trajectory: Trajectory) -> dict[str, Any]:
    """All figures of one segmented trajectory. Values are 0..1 but `turns`; None where a measure does not apply.

    J and F are means over all frames, both empty counting 1 (DAVIS, MeViS); `j_visible` is J over the frames that
    show the target. A trajectory without a usable answer has an empty tracklet.
    """
    task = trajectory.task
    video = task.video
    size = (video.height, video.width)
    gold_THW = decode_tracklet(task.gold, size)
    pred_THW = decode_tracklet([trajectory.masks.get(at) for at in range(video.num_frames)], size)
    j_T, f_T = tracklet_jf(gold_THW, pred_THW)
    visible = gold_THW.any((1, 2)).reshape(-1)
    decision = trajectory.decision
    interval_iou = key_hit = None
    if visible.any():
        interval_iou = key_hit = 0.0
        if isinstance(decision, Select | Answer):
            inside = [at in decision.interval for at in range(video.num_frames)]
            union = sum(a or b for a, b in zip(inside, visible, strict=True))
            interval_iou = sum(bool(a and b) for a, b in zip(inside, visible, strict=True)) / union
            key_hit = float(visible[decision.key_frame])
    return {
        "task_id": task.task_id,
        "family": task.family,
        "explore": task.explore,
        "j": float(j_T.mean()),
        "f": float(f_T.mean()),
        "jf": float((j_T.mean() + f_T.mean()) / 2),
        "j_visible": float(j_T[visible].mean()) if visible.any() else None,
        "interval_iou": interval_iou,
        "key_hit": key_hit,
        "format": float(not any(isinstance(turn.decision, Malformed) for turn in trajectory.turns)),
        "turns": len(trajectory.turns),
        "tool_use": float(any(isinstance(turn.decision, Select) for turn in trajectory.turns)),
        "tool_uses": {name: num_uses(trajectory, tool) for name, tool in TOOLS.items()},
        "stop": str(trajectory.stop_reason),
    }
