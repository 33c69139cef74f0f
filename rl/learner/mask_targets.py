"""Which masks the learner decodes: every turn's [SEG] on a key frame, and the last one's on frames of the whole video.

Rewards, the calibration and the mask loss all read these. `grpo.masks` is a key of `MASKS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from env.frames import sample_indices
from env.types import Answer, Interval, Select, Trajectory
from policy.vlm.batch import TokenSequence

MASKS: dict[str, str] = {
    "sampled": "A key frame is the one that its turn names; the answer's masks are of evenly spaced frames and of it.",
    "released": "As VideoSEG-O3: a key frame is the one that its turn was shown, and is none of the answer's frames.",
    "tracked": "As `sampled`; then a track through the whole video, as in inference, replaces the answer's masks.",
}


@dataclass(frozen=True)
class Target:
    """One mask to decode: a [SEG] on one frame."""

    prompt_row: int  # of the [SEG] among all of the batch's
    sample: int  # position within the batch
    column: int  # of the [SEG] in its sequence
    turn: int
    frame_idx: int
    is_key: bool  # the turn's `key_mask`, which the calibration is about
    is_answer: bool  # one of the trajectory's `masks`


def mask_targets(pairs: Sequence[tuple[Trajectory, TokenSequence]], masks: str, num_frames: int) -> list[Target]:
    """Targets of a batch: the last [SEG] of every turn on its key frame, that of the last turn on `num_frames` more.

    Turns without [SEG] have none. Malformed ones, which name no frame, have theirs with `released` only: its code
    decodes before it reads the text.
    """
    is_released = masks == "released"
    spread_over = released_frames if is_released else _evenly
    targets, first_row = [], 0
    for at, (trajectory, sequence) in enumerate(pairs):
        last_turn = len(trajectory.turns) - 1
        for turn, seg in {turn: seg for seg, turn in enumerate(sequence.seg_turns)}.items():
            key_frame = shown_key_frame(trajectory, turn) if is_released else _named_key_frame(trajectory, turn)
            if key_frame is None:
                continue
            place = (first_row + seg, at, sequence.seg_positions[seg], turn)
            is_last = turn == last_turn
            targets.append(Target(*place, key_frame, is_key=True, is_answer=is_last and not is_released))
            if is_last:
                spread = spread_over(trajectory.task.video.num_frames, num_frames)
                targets += [Target(*place, frame_idx, is_key=False, is_answer=True) for frame_idx in spread]
        first_row += len(sequence.seg_turns)
    return targets


def shown_key_frame(trajectory: Trajectory, turn: int) -> int:
    """The key frame that a turn was shown because the one before selected it; the video's middle one for the first."""
    shown = [frame.frame_idx for frame in trajectory.turns[turn].observation.frames if frame.role == "key"]
    return shown[-1] if shown else trajectory.task.video.num_frames // 2


def released_frames(num_frames: int, count: int) -> tuple[int, ...]:
    """`count` evenly spaced frames from first to last, rounded down; all of a video that has at most one more."""
    if num_frames <= count + 1:
        return tuple(range(num_frames))
    return tuple(at * (num_frames - 1) // max(1, count - 1) for at in range(count))


def _evenly(num_frames: int, count: int) -> tuple[int, ...]:
    return sample_indices(Interval(0, num_frames), count)


def _named_key_frame(trajectory: Trajectory, turn: int) -> int | None:
    decision = trajectory.turns[turn].decision
    return decision.key_frame if isinstance(decision, Select | Answer) else None
