"""The seven rewards of the released VideoSEG-O3 code (d9681d9), number for number, including their faults.

They parse the text by themselves, as the released functions do, and require no answer. The released regular expressions
are written as searches that take linear time on any text. For a model family without turns, only `maskiou_dense`
applies.

With `grpo.masks: released` (`rl.learner.mask_targets`) the masks are those of the released code: `trajectory.masks`
holds exactly the evenly spaced frames, over which all means run; the key frame of a turn is the one that it was shown
(the middle one in the first turn), not the one that it names; text that does not parse has masks where it has [SEG].
With other settings the key frame is the one that the turn names, and it also counts among the frames.
One difference remains: of several [SEG] in one turn the last is used. The released code does so for key frames only,
and averages over all of them on the other frames.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

import numpy as np

from env.types import Trajectory, Turn
from rewards.base import frame_j, is_single_pass, mask_pair, text_between, visible_frames
from rewards.jf import region_j
from rewards.score_tiers import RELEASED_DELTA_KEY_FRAMES, RELEASED_DELTA_KEY_MASK, RELEASED_MASK_IOU, tier_score

_THOUGHT = re.compile(r"</think>\s*<(answer|select)>")
_BLOCK = re.compile(r"<(answer|select)>")
_KEYS = {"start", "end", "keyframe"}
_MAX_LITERAL = 4096  # characters; longer ones could exhaust the stack of Python's parser


def strict_format(trajectory: Trajectory) -> float | None:
    """1 where every turn has thinking and a block with JSON and [SEG], else -1.

    Edge cases: 0 without turns; the first such block counts, select or answer, whatever text surrounds it; None for a
    family without turns.
    Why: released; its docstring requires an answer in the last turn, its code does not.
    """
    if is_single_pass(trajectory):
        return None
    if not trajectory.turns:
        return 0.0
    return 1.0 if all(_is_strict(turn.action.text) for turn in trajectory.turns) else -1.0


def step_format(trajectory: Trajectory) -> float | None:
    """Share of four keywords found as substrings of the first thinking, mean over turns, 0..1.

    Edge cases: 0 without turns; "Step 11" counts as "step 1" and "interaction" as "action"; None for a family without
    turns.
    Why: released; keeps a policy to the form of the traces.
    """
    if is_single_pass(trajectory):
        return None
    shares = [_share_of_keywords(turn.action.text) for turn in trajectory.turns]
    return sum(shares) / len(shares) if shares else 0.0


def vtg_iou_dense(trajectory: Trajectory) -> float | None:
    """Half the precision of the last turn's span where that is at least 0.5, else -0.5: -0.5 or 0.25..0.5.

    Edge cases: the last frame that the text names is left out, so that one frame alone is no span; -0.5 where the text
    does not parse; 0.5 for any span where the target is never visible; None where gold is unknown and for a family
    without turns.
    Why: released under the name of an IoU. One frame that shows the target scores as much as the whole interval.
    """
    num_frames = len(trajectory.task.gold)
    if num_frames == 0 or is_single_pass(trajectory):
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
    """1 where the key frame that the last turn names shows the target, else -1.

    Edge cases: a missing key frame is frame 0, others are clamped to the video; -1 where the text does not parse, and
    always where the target is never visible; None where gold is unknown and for a family without turns.
    Why: released; in inference SAM 2 starts from that frame.
    """
    if not trajectory.task.gold or is_single_pass(trajectory):
        return None
    span = _last_span(trajectory)
    return 1.0 if span is not None and span[2] in visible_frames(trajectory) else -1.0


def maskiou_dense(trajectory: Trajectory) -> float | None:
    """Mean tier of J over the frames of the last turn's masks, -1..1.5.

    Edge cases: both empty is J 1; -1 without masks; 0 without turns, except for a family that has none; neither an
    answer nor text that parses is needed; None where gold is unknown.
    Why: released. Its tiers give nothing for a poor match, and three points per unit of J above 0.4.
    """
    if not trajectory.task.gold:
        return None
    if not trajectory.turns and not is_single_pass(trajectory):
        return 0.0
    tiers = [tier_score(RELEASED_MASK_IOU, value) for value in _video_j(trajectory)]
    return sum(tiers) / len(tiers) if tiers else -1.0


def keyframe_vs_mask_dense(trajectory: Trajectory) -> float | None:
    """Tier, -1, 0 or 0.5, of the last key-frame J minus the mean J of the video's frames.

    Edge cases: 0 for one turn; J is 0 without a mask, and both empty is 1 in the video but 0 on the key frame; None
    where gold is unknown and for a family without turns.
    Why: released; the zoomed frame should be segmented better than the others. The intended tiers above 0.5 are never
    reached.
    """
    if not trajectory.task.gold or is_single_pass(trajectory):
        return None
    if len(trajectory.turns) < 2:
        return 0.0
    values = _video_j(trajectory)
    mean = sum(values) / len(values) if values else 0.0
    return tier_score(RELEASED_DELTA_KEY_MASK, _key_j(trajectory, trajectory.turns[-1]) - mean)


def progressive_keyframe_dense(trajectory: Trajectory) -> float | None:
    """Tier, -1, 0 or 0.5, of the last key-frame J minus the best earlier one.

    Edge cases: 0 for one turn; J is 0 without a mask and where both are empty; None where gold is unknown and for a
    family without turns.
    Why: released; each turn should improve on the earlier ones. The intended tiers above 0.5 are never reached.
    """
    if not trajectory.task.gold or is_single_pass(trajectory):
        return None
    if len(trajectory.turns) < 2:
        return 0.0
    *earlier, last = [_key_j(trajectory, turn) for turn in trajectory.turns]
    return tier_score(RELEASED_DELTA_KEY_FRAMES, last - max(earlier))


def _is_strict(text: str) -> bool:
    body = _first_body(text)
    if body is None:
        return False
    vtg, ref_seg = text_between(body, "<VTG>", "</VTG>"), text_between(body, "<RefSeg>", "</RefSeg>")
    if vtg is None or ref_seg is None or "[SEG]" not in ref_seg:
        return False
    try:
        fields = json.loads(vtg)
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and fields.keys() >= _KEYS


def _first_body(text: str) -> str | None:
    """Return the body of the first closed <select> or <answer> that follows a <think>..</think>, anywhere."""
    thinking = text.find("<think>")
    if thinking < 0:
        return None
    unclosed: set[str] = set()  # kinds of block with no closing tag in the rest of the text
    for thought in _THOUGHT.finditer(text, thinking + len("<think>")):
        if thought[1] not in unclosed:
            end = text.find(f"</{thought[1]}>", thought.end())
            if end >= 0:
                return text[thought.end() : end]
            unclosed.add(thought[1])
    return None


def _last_vtg(text: str) -> str | None:
    """Return the JSON of the last <select> or <answer> that holds <VTG>..</VTG> and is closed after it."""
    vtg, at = None, 0
    unclosed: set[str] = set()  # kinds of block with no closing tag in the rest of the text
    while block := _BLOCK.search(text, at):
        at = block.end()
        if block[1] in unclosed:
            continue
        start = text.find("<VTG>", at)
        end = text.find("</VTG>", start) if start >= 0 else -1
        if end < 0:
            break
        close = text.find(f"</{block[1]}>", end)
        if close < 0:
            unclosed.add(block[1])
        else:
            vtg, at = text[start + len("<VTG>") : end], close
    return vtg


def _share_of_keywords(text: str) -> float:
    thinking = text_between(text.lower(), "<think>", "</think>") or ""
    return sum(name in thinking for name in ("step 1", "step 2", "step 3", "action")) / 4


def _last_span(trajectory: Trajectory) -> tuple[int, int, int] | None:
    """Return (start, end excluded, key frame) of the last turn's last block, clamped; None where it does not parse.

    The text is read as a Python literal, not as JSON; missing keys are 0 and other numbers are cut to integers.
    """
    vtg = _last_vtg(trajectory.turns[-1].action.text) if trajectory.turns else None
    if vtg is None or len(vtg) > _MAX_LITERAL:
        return None
    try:
        fields: Any = ast.literal_eval(vtg.strip())
        start, end, key = (int(fields.get(name, 0)) for name in ("start", "end", "keyframe"))
    except (ValueError, TypeError, SyntaxError, AttributeError, OverflowError, RecursionError, MemoryError):
        return None
    num_frames = len(trajectory.task.gold)
    return max(0, min(start, num_frames)), max(0, min(end, num_frames)), max(0, min(key, num_frames - 1))


def _video_j(trajectory: Trajectory) -> list[float]:
    return [frame_j(trajectory, frame_idx, rle) for frame_idx, rle in sorted(trajectory.masks.items())]


def _key_j(trajectory: Trajectory, turn: Turn) -> float:
    """Return J on the turn's key frame; 0 without a mask, and (unlike in the video) where both masks are empty."""
    if turn.key_mask is None or turn.key_mask_frame is None:
        return 0.0
    gold_HW, pred_HW = mask_pair(trajectory, turn.key_mask_frame, turn.key_mask)
    return region_j(gold_HW, pred_HW) if gold_HW.any() or pred_HW.any() else 0.0
