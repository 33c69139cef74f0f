"""Reward profiles: names of `rewards.REWARDS` with weights. `rewards: videoseg_o3` in a config selects one."""

from __future__ import annotations

PROFILES: dict[str, dict[str, float]] = {
    # As the paper describes. Interval and masks weigh more than the format. With these weights of the last two, turns
    # never cost more than the evidence that they gain (`rewards/exploration.py` has the condition).
    "default": {
        "format": 0.5,  # an answer is required
        "interval_iou": 1.0,
        "key_frame": 0.5,  # whether it shows the target
        "key_mask_iou": 0.5,  # whether it shows the target well enough to be segmented
        "tracklet_jf": 2.0,  # over the whole video if `grpo.masks` is `tracked`
        "progress": 0.2,
        "turn_cost": 0.2,
    },
    # The sum of the released code. It needs `grpo.masks: released`.
    "videoseg_o3": {
        "o3_strict_format": 1.0,
        "o3_step_format": 1.0,
        "o3_vtg_iou_dense": 1.0,
        "o3_vtg_keyframe": 1.0,
        "o3_maskiou_dense": 1.0,
        "o3_keyframe_vs_mask_dense": 1.0,
        "o3_progressive_keyframe_dense": 1.0,
    },
}
