"""Rewards: pure functions of a trajectory, free of torch. To add one, write it and name it in `REWARDS`."""

from __future__ import annotations

from collections.abc import Mapping

from configs.load import ConfigError
from env.types import Scores, StopReason, Trajectory
from rewards import released
from rewards.base import RewardFn
from rewards.format import format_reward, promptness, steps
from rewards.mask import key_frame_gain, key_mask_iou, mask_iou, tracklet_jf
from rewards.temporal import interval_iou, key_frame

REWARDS: dict[str, RewardFn] = {
    "format": format_reward,
    "steps": steps,
    "promptness": promptness,
    "interval_iou": interval_iou,
    "key_frame": key_frame,
    "mask_iou": mask_iou,
    "key_mask_iou": key_mask_iou,
    "key_frame_gain": key_frame_gain,
    "tracklet_jf": tracklet_jf,
    "o3_strict_format": released.strict_format,
    "o3_step_format": released.step_format,
    "o3_vtg_iou_dense": released.vtg_iou_dense,
    "o3_vtg_keyframe": released.vtg_keyframe,
    "o3_maskiou_dense": released.maskiou_dense,
    "o3_keyframe_vs_mask_dense": released.keyframe_vs_mask_dense,
    "o3_progressive_keyframe_dense": released.progressive_keyframe_dense,
}

# The smallest and largest value that each can give.
RANGES: dict[str, tuple[float, float]] = {
    "format": (-1, 1),
    "steps": (0, 1),
    "promptness": (0, 1),
    "interval_iou": (0, 1),
    "key_frame": (0, 1),
    "mask_iou": (0, 1),
    "key_mask_iou": (0, 1),
    "key_frame_gain": (-1, 2),
    "tracklet_jf": (0, 1),
    "o3_strict_format": (-1, 1),
    "o3_step_format": (0, 1),
    "o3_vtg_iou_dense": (-0.5, 0.5),
    "o3_vtg_keyframe": (-1, 1),
    "o3_maskiou_dense": (-1, 1.5),
    "o3_keyframe_vs_mask_dense": (-1, 0.5),
    "o3_progressive_keyframe_dense": (-1, 0.5),
}

# Weights by profile: `default` is what the paper describes, `videoseg_o3` what its released code adds up.
PROFILES: dict[str, dict[str, float]] = {
    "default": {"format": 0.5, "interval_iou": 1.0, "key_frame": 0.5, "mask_iou": 2.0},
    "videoseg_o3": {name: 1.0 for name in REWARDS if name.startswith("o3_")},
}


def score(trajectory: Trajectory, weights: Mapping[str, float]) -> Scores:
    """The weighted sum of the named rewards and its parts; a part of weight 0 is recorded without counting.

    Parts that do not apply to the task are None and left out of the sum. ConfigError on an unknown name; ValueError for
    a trajectory that ended as an error, which says nothing about the policy.
    """
    unknown = sorted(weights.keys() - REWARDS.keys())
    if unknown:
        raise ConfigError(f"rewards: unknown {', '.join(unknown)}; known are {', '.join(REWARDS)}")
    if trajectory.stop_reason is StopReason.ERROR:
        raise ValueError(f"trajectory {trajectory.trajectory_id} ended as an error ({trajectory.error}): not scored")
    breakdown = {name: REWARDS[name](trajectory) for name in weights}
    total = sum(weights[name] * value for name, value in breakdown.items() if value is not None)
    return Scores(float(total), breakdown)
