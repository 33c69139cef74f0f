"""The seven rewards of the released VideoSEG-O3 code (d9681d9), number for number, faults included.

They read the text by themselves, as the released functions do, and ask for no answer. Known differences of the inputs:
a turn's key frame is the one it names (released: the one that the turn before it selected, first the middle frame), and
masks are compared at full size.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

import numpy as np

from env.types import Malformed, Trajectory, Turn
from rewards.base import frame_j, mask_pair, visible_frames
from rewards.ladders import RELEASED_DELTA_KEY_FRAMES, RELEASED_DELTA_KEY_MASK, RELEASED_MASK_IOU, climb

_TURN = re.compile(r"<think>.*?</think>\s*<(answer|select)>(.*?)</\1>", re.DOTALL)
_BLOCK_WITH_VTG = re.compile(r"<(select|answer)>.*?<VTG>(.*?)</VTG>.*?</\1>", re.DOTALL)
_VTG = re.compile(r"<VTG>(.*?)</VTG>", re.DOTALL)
_REF_SEG = re.compile(r"<RefSeg>(.*?)</RefSeg>", re.DOTALL)
_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL | re.IGNORECASE)
_KEYS = {"start", "end", "keyframe"}


def strict_format(trajectory: Trajectory) -> float:
    """1 where every turn has thinking and a block with JSON and [SEG], be it a select or an answer, else -1."""
    if not trajectory.turns:
        return 0.0
    return 1.0 if all(_is_strict(turn.action.text) for turn in trajectory.turns) else -1.0


def step_format(trajectory: Trajectory) -> float:
    """Share of four keywords found as substrings of the first thinking, mean over turns, 0..1."""
    shares = [_share_of_keywords(turn.action.text) for turn in trajectory.turns]
    return sum(shares) / len(shares) if shares else 0.0


def vtg_iou_dense(trajectory: Trajectory) -> float | None:
    """Half the precision of the last turn's span where that is at least 0.5, else -0.5."""
    num_frames = len(trajectory.task.gold)
    if num_frames == 0:
        return None
    span = _last_span(trajectory)
    if span is None or span[0] >= span[1]:
        return -0.5
    start, end, _ = span
    visible = visible_frames(trajectory)
    if not visible:
        return 0.5
    # Single precision, as tensors are: a longer span loses the 1e-6.
    shared = np.float32(sum(start <= frame_idx < end for frame_idx in visible))
    precision = float(shared / (np.float32(end - start) + np.float32(1e-6)))
    return 0.5 * precision if precision >= 0.5 else -0.5


def vtg_keyframe(trajectory: Trajectory) -> float | None:
    """1 where the last turn's key frame shows the target, else -1."""
    if not trajectory.task.gold:
        return None
    span = _last_span(trajectory)
    return 1.0 if span is not None and span[2] in visible_frames(trajectory) else -1.0


def maskiou_dense(trajectory: Trajectory) -> float | None:
    """Mean tier of J over the frames of the last turn's masks, -1..1.5; -1 without masks, 0 without turns."""
    if not trajectory.task.gold:
        return None
    if not trajectory.turns:
        return 0.0
    tiers = [climb(RELEASED_MASK_IOU, value) for value in _video_j(trajectory)]
    return sum(tiers) / len(tiers) if tiers else -1.0


def keyframe_vs_mask_dense(trajectory: Trajectory) -> float | None:
    """Tier of the last key-frame J minus the mean J of the video; 0 for one turn."""
    if not trajectory.task.gold:
        return None
    if len(trajectory.turns) < 2:
        return 0.0
    values = _video_j(trajectory)
    mean = sum(values) / len(values) if values else 0.0
    return climb(RELEASED_DELTA_KEY_MASK, _key_j(trajectory, trajectory.turns[-1]) - mean)


def progressive_keyframe_dense(trajectory: Trajectory) -> float | None:
    """Tier of the last key-frame J minus the best earlier one; 0 for one turn."""
    if not trajectory.task.gold:
        return None
    if len(trajectory.turns) < 2:
        return 0.0
    *earlier, last = [_key_j(trajectory, turn) for turn in trajectory.turns]
    return climb(RELEASED_DELTA_KEY_FRAMES, last - max(earlier))


def _is_strict(text: str) -> bool:
    turn = _TURN.search(text)
    if turn is None:
        return False
    vtg, ref_seg = _VTG.search(turn[2]), _REF_SEG.search(turn[2])
    if vtg is None or ref_seg is None or "[SEG]" not in ref_seg[1]:
        return False
    try:
        fields = json.loads(vtg[1])
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and fields.keys() >= _KEYS


def _share_of_keywords(text: str) -> float:
    think = _THINK.search(text)
    return sum(name in think[1].lower() for name in ("step 1", "step 2", "step 3", "action")) / 4 if think else 0.0


def _last_span(trajectory: Trajectory) -> tuple[int, int, int] | None:
    """(start, end excluded, key frame) of the last block of the last turn, clamped; None where it does not parse.

    The text is a Python literal here, not JSON; missing keys are 0 and other numbers are cut to integers.
    """
    blocks = _BLOCK_WITH_VTG.findall(trajectory.turns[-1].action.text) if trajectory.turns else []
    if not blocks:
        return None
    try:
        fields: Any = ast.literal_eval(blocks[-1][1].strip())
        start, end, key = (int(fields.get(name, 0)) for name in ("start", "end", "keyframe"))
    except (ValueError, TypeError, SyntaxError, AttributeError, OverflowError, RecursionError, MemoryError):
        return None
    num_frames = len(trajectory.task.gold)
    return max(0, min(start, num_frames)), max(0, min(end, num_frames)), max(0, min(key, num_frames - 1))


def _video_j(trajectory: Trajectory) -> list[float]:
    return [frame_j(trajectory, frame_idx, rle) for frame_idx, rle in sorted(trajectory.masks.items())]


def _key_j(trajectory: Trajectory, turn: Turn) -> float:
    """J on the turn's key frame; 0 where it has no mask, and (unlike in the video) where both masks are empty."""
    if turn.key_mask is None or isinstance(turn.decision, Malformed):
        return 0.0
    gold_HW, pred_HW = mask_pair(trajectory, turn.decision.key_frame, turn.key_mask)
    union = np.count_nonzero(gold_HW | pred_HW)
    return np.count_nonzero(gold_HW & pred_HW) / union if union else 0.0
