"""The masks that the learner decodes: each turn's [SEG] on a key frame, the last one also on frames of the whole video.

Rewards, the calibration and the mask loss all read these masks. `grpo.masks` is a key of `MASKS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from env.spacing import whole_video
from env.types import Answer, Select, Trajectory
from policy.vlm.batch import TokenSequence

MASKS: dict[str, str] = {
    "sampled": "A turn's key frame is the one that it names. The answer has masks on evenly spaced frames and on it.",
    "released": "As VideoSEG-O3: a turn's key frame is the one it was shown. The answer has masks on the large frames.",
    "tracked": "As `sampled`, but a track through the whole video, as in inference, replaces the answer's masks.",
}


@dataclass(frozen=True)
class Target:
    """One mask to decode: a [SEG] on one frame."""

    prompt_row: int  # number of the [SEG] among all of the batch
    sample: int  # row of the batch
    column: int  # position of the [SEG] in its sequence
    turn: int
    frame_idx: int
    is_key: bool  # whether it is the turn's `key_mask`, which the calibration reads
    is_answer: bool  # whether it is one of the trajectory's `masks`


def mask_targets(pairs: Sequence[tuple[Trajectory, TokenSequence]], masks: str, num_frames: int) -> list[Target]:
    """Return the targets of a batch: each turn's last [SEG] on its key frame, the last turn's on further frames.

    A turn without [SEG] has no target. A malformed turn, which names no frame, has one with `released` only: the
    released code decodes before it parses the text.

    Args:
        pairs: The trajectories of the batch with their token sequences.
        masks: A key of MASKS.
        num_frames: How many frames the last turn's [SEG] is decoded on besides its key frame; with `released` they are
            the frames that the first observation shows large, however many.

    Returns:
        The targets, row by row of the batch and in the order of turns.
    """
    is_released = masks == "released"
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
                spread = (answer_frames if is_released else _evenly)(trajectory, num_frames)
                targets += [Target(*place, frame_idx, is_key=False, is_answer=True) for frame_idx in spread]
        first_row += len(sequence.seg_turns)
    return targets


def shown_key_frame(trajectory: Trajectory, turn: int) -> int:
    """Return the key frame that a turn was shown: the one that the turn before selected, or the video's middle one."""
    shown = [frame.frame_idx for frame in trajectory.turns[turn].observation.frames if frame.role == "key"]
    return shown[-1] if shown else trajectory.task.video.num_frames // 2


def answer_frames(trajectory: Trajectory, count: int) -> tuple[int, ...]:
    """Return the frames of the released mask reward: those that the first observation shows large.

    Where it shows none, they are `count` evenly spaced ones, rounded down.
    """
    shown = trajectory.turns[0].observation.frames
    large = tuple(frame.frame_idx for frame in shown if frame.role == "detail")
    return large or whole_video(trajectory.task.video.num_frames, count, "down")


def _evenly(trajectory: Trajectory, count: int) -> tuple[int, ...]:
    return whole_video(trajectory.task.video.num_frames, count, "nearest")


def _named_key_frame(trajectory: Trajectory, turn: int) -> int | None:
    decision = trajectory.turns[turn].decision
    return decision.key_frame if isinstance(decision, Select | Answer) else None
