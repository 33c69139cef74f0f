"""Reward profiles: names of `rewards.REWARDS` with weights. `rewards: videoseg_o3` in a config takes one whole."""

from __future__ import annotations

PROFILES: dict[str, dict[str, float]] = {
    # What the paper describes. Where and when the target is outweighs how it is written, and what a look costs is
    # bounded by what it gains (`rewards/exploration.py`), for which these weights of the last two are needed.
    "default": {
        "format": 0.5,  # an answer is required
        "interval_iou": 1.0,
        "key_frame": 0.5,  # it shows the target ..
        "key_mask_iou": 0.5,  # .. and well enough to be segmented; an empty mask where there is no target
        "tracklet_jf": 2.0,  # over the whole video where `grpo.masks` is `tracked`
        "progress": 0.2,
        "turn_cost": 0.2,
    },
    # What the released code adds up; its inputs are those of `grpo.masks: released`.
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
