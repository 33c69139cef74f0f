"""Rewards: pure functions of a trajectory, without torch. To add one, write it and name it in `REWARDS` and `RANGES`.

Every docstring tells its range, its edge cases and why it exists. `configs/profiles.py` names the sums that runs use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from configs.load import ConfigError
from configs.profiles import PROFILES
from env.types import Scores, StopReason, Trajectory
from rewards import videoseg_o3 as released
from rewards.base import RewardFn
from rewards.exploration import MAX_COST_PER_GAIN, progress, turn_cost
from rewards.format import format_reward, promptness, steps
from rewards.mask import key_frame_gain, key_mask_iou, mask_iou, tracklet_jf
from rewards.temporal import interval_iou, key_frame

__all__ = ["PROFILES", "RANGES", "REWARDS", "check_weights", "score"]

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
    "progress": progress,
    "turn_cost": turn_cost,
    "o3_strict_format": released.strict_format,
    "o3_step_format": released.step_format,
    "o3_vtg_iou_dense": released.vtg_iou_dense,
    "o3_vtg_keyframe": released.vtg_keyframe,
    "o3_maskiou_dense": released.maskiou_dense,
    "o3_keyframe_vs_mask_dense": released.keyframe_vs_mask_dense,
    "o3_progressive_keyframe_dense": released.progressive_keyframe_dense,
}

# The smallest and the largest value of each.
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
    "progress": (-1, 1),
    "turn_cost": (-math.inf, 0),  # -1 for each turn after the first
    "o3_strict_format": (-1, 1),
    "o3_step_format": (0, 1),
    "o3_vtg_iou_dense": (-0.5, 0.5),
    "o3_vtg_keyframe": (-1, 1),
    "o3_maskiou_dense": (-1, 1.5),
    "o3_keyframe_vs_mask_dense": (-1, 0.5),
    "o3_progressive_keyframe_dense": (-1, 0.5),
}


def check_weights(weights: Mapping[str, float]) -> None:
    """Raise ConfigError for an unknown name, and for a cost of turns that may outweigh their gain."""
    _check_names(weights)
    cost, earned = weights.get("turn_cost", 0.0), weights.get("key_mask_iou", 0.0) + weights.get("progress", 0.0)
    if cost > 0 and MAX_COST_PER_GAIN * cost >= earned:
        raise ConfigError(
            f"rewards.turn_cost: expected less than {earned / MAX_COST_PER_GAIN:g}, got {cost:g}. "
            f"{MAX_COST_PER_GAIN:g} times the cost has to be less than the weights of key_mask_iou and progress "
            f"together ({earned:g}), or a turn that gains would not pay"
        )


def score(trajectory: Trajectory, weights: Mapping[str, float]) -> Scores:
    """Return the weighted sum of the named rewards and its parts; a part of weight 0 is recorded but does not count.

    Parts that do not apply to the trajectory are None and left out of the sum. Raises ConfigError for an unknown name,
    and ValueError for a trajectory that ended in an error, which tells nothing about the policy.
    """
    _check_names(weights)
    if trajectory.stop_reason is StopReason.ERROR:
        raise ValueError(f"trajectory {trajectory.trajectory_id} ended as an error ({trajectory.error}): not scored")
    breakdown = {name: REWARDS[name](trajectory) for name in weights}
    total = sum(weights[name] * value for name, value in breakdown.items() if value is not None)
    return Scores(float(total), breakdown)


def _check_names(weights: Mapping[str, float]) -> None:
    unknown = sorted(weights.keys() - REWARDS.keys())
    if unknown:
        raise ConfigError(f"rewards: unknown {', '.join(unknown)}; known are {', '.join(REWARDS)}")
