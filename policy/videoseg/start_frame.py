"""The frame on which the last [SEG] is decoded and from which SAM 2 tracks. No torch."""

from __future__ import annotations

from env.actions import key_frame_in
from env.types import Answer, Malformed, Select, StopReason, Trajectory


def is_decoded(trajectory: Trajectory, malformed: str) -> bool:
    """Return whether the last [SEG] of a finished episode is decoded.

    Args:
        trajectory: The episode.
        malformed: `eval.malformed`; with `decode` a last text counts that could not be parsed, unless it holds tokens
            that stand for images.
    """
    decision = trajectory.decision
    if isinstance(decision, Malformed):
        is_failure = trajectory.stop_reason is StopReason.ERROR
        return malformed == "decode" and not is_failure and decision.reason != "media_token"
    return decision is not None


def start_frame(trajectory: Trajectory) -> int:
    """Return the key frame of the last decision, or for malformed text the frame that VideoSEG-O3 takes.

    That is the key frame of a <select> in the text, else the last key frame that was selected, else that of an <answer>
    in the text, else the middle one of the large frames (modeling_sa2va_qwen_cotv3_keyframe_withvis.py:515-522).
    """
    *earlier, last = trajectory.turns
    if isinstance(last.decision, Select | Answer):
        return last.decision.key_frame
    text, num_frames = last.action.text, trajectory.task.video.num_frames
    selected = [turn.decision.key_frame for turn in earlier if isinstance(turn.decision, Select)]
    large = [frame.frame_idx for frame in trajectory.turns[0].observation.frames if frame.role == "detail"]
    candidates = (
        key_frame_in(text, num_frames, "select"),
        selected[-1] if selected else None,
        key_frame_in(text, num_frames, "answer"),
        large[len(large) // 2] if large else None,
    )
    return next((frame_idx for frame_idx in candidates if frame_idx is not None), num_frames // 2)
