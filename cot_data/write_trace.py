"""Cold-start traces (VTS-CoT) from ground truth, for any data set with masks.

An `explore` task is first looked into where its evidence is, without naming the target; any other one is mostly
answered at once. The answer holds the gold interval and a frame in which the target can be seen well.
"""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np

from configs.schema import EnvConfig
from cot_data.records import Message, Record, TraceStep
from cot_data.wording import Thought, place_of, write_turn
from env.errors import DataError
from env.frames import sample_indices
from env.prompts import PROMPTS
from env.types import RLE, Answer, Interval, Select, Task
from rewards.rle import decode

DIRECT_SHARE = 0.75  # of the tasks whose first observation is enough: answered in the first turn
AROUND = 4  # frames looked at on either side of a frame that the query or the evidence names


def write_trace(
    task: Task,
    config: EnvConfig,
    rng: np.random.Generator,
    style: str = "full",
    anno_id: tuple[int | str, ...] = (),
) -> Record:
    """A dialogue that finds the target of `task` within `config.max_turns`; DataError where its masks are unknown.

    `style` is a key of `cot_data.wording.STYLES`.
    """
    if not task.gold:
        raise DataError(f"task {task.task_id}", "expected gold masks to write a trace from, found none")
    thoughts = _explore(task, config) if task.explore else _plain(task, config, rng)
    video_name, exp_id = task.task_id.split("/", 1)[1].rsplit("/", 1)
    turns = [write_turn(thought, style) for thought in thoughts[-config.max_turns :]]
    whole = Interval(0, task.video.num_frames)
    return Record(
        video_name=video_name,
        frames=task.video.frames,
        exp=task.expression,
        anno_id=anno_id,
        sample_frame_indice=sample_indices(whole, config.detail_frames),
        round_num=len(turns),
        cot_trace=tuple(_numbers(thought) for thought in thoughts[-config.max_turns :]),
        conversations=_conversation(task, config, turns),
        exp_id=exp_id,
    )


def _numbers(thought: Thought) -> TraceStep:
    interval = thought.decision.interval
    return TraceStep(interval.start, interval.end - 1, thought.decision.key_frame)


def _conversation(task: Task, config: EnvConfig, turns: list[str]) -> tuple[Message, ...]:
    messages = [Message("system", PROMPTS[config.prompt].system)]
    for i, turn in enumerate(turns):
        messages.append(Message("human", "<image>" if i else f"<image>\n{task.expression}"))
        messages.append(Message("gpt", turn))
    return tuple(messages)


def _explore(task: Task, config: EnvConfig) -> list[Thought]:
    select = evidence_select(task)
    shown = {*_first_frames(task, config), select.key_frame, *sample_indices(select.interval, config.zoom_frames)}
    return [Thought(task.expression, select, "", ""), _answer(task, shown, select.key_frame)]


def evidence_select(task: Task) -> Select:
    """Where to look: where the query says, if it names frames and the evidence is there, else around the evidence.

    A policy can only learn to look where the query points.
    """
    last = task.video.num_frames - 1
    numbers = [int(digits) for digits in re.findall(r"\d{1,6}", task.expression)]
    start, end = (numbers[0], numbers[-1]) if numbers else (task.evidence[0], task.evidence[-1])
    key_frame = (start + end) // 2
    if key_frame not in task.evidence:
        start, end = task.evidence[0], task.evidence[-1]
        key_frame = task.evidence[len(task.evidence) // 2]
    if start == end or not numbers:
        start, end = start - AROUND, end + AROUND
    return Select(Interval(max(start, 0), min(end, last) + 1), key_frame)


def _plain(task: Task, config: EnvConfig, rng: np.random.Generator) -> list[Thought]:
    shown = _first_frames(task, config)
    if rng.random() < DIRECT_SHARE or not _seen(task.gold) or config.max_turns < 2:
        return [_answer(task, shown)]
    select = _refine(task, config)
    after = shown | {select.key_frame, *sample_indices(select.interval, config.zoom_frames)}
    place = _place(task, select.key_frame)
    return [Thought(task.expression, select, _name(task), place), _answer(task, after, select.key_frame)]


def _refine(task: Task, config: EnvConfig) -> Select:
    """Zoom to the gap of the strip in which the target comes or goes, else around the key frame; see that one large."""
    strip = sample_indices(Interval(0, task.video.num_frames), config.strip_frames)
    seen = _seen(task.gold)
    key_frame = best_frame(task.gold, set(strip))
    for start, end in pairwise(strip):
        if start < seen[0] <= end or start <= seen[-1] < end:
            return Select(Interval(start, end + 1), key_frame)
    start, end = max(key_frame - AROUND, 0), min(key_frame + AROUND, task.video.num_frames - 1)
    return Select(Interval(start, end + 1), key_frame)


def _answer(task: Task, shown: set[int], large: int | None = None) -> Thought:
    """The last turn; a query that nothing answers to gets the whole video and its middle frame.

    `large` is the key frame that was just shown: it stays the key frame if it is nearly as good as the best one.
    """
    num_frames = task.video.num_frames
    seen = _seen(task.gold)
    if not seen:
        return Thought(task.expression, Answer(Interval(0, num_frames), num_frames // 2), "", "", matches=False)
    key_frame = best_frame(task.gold, shown)
    if large is not None and _is_nearly_as_good(task.gold[large], task.gold[key_frame]):
        key_frame = large
    return Thought(
        task.expression, Answer(Interval(seen[0], seen[-1] + 1), key_frame), _name(task), _place(task, key_frame)
    )


def best_frame(gold: tuple[RLE | None, ...], shown: set[int]) -> int:
    """The frame that shows the target largest and whole, among the `shown` ones that show it, else among all.

    Sizes within a tenth of the largest are equal, the earliest wins; a target cut by the border only if all are.
    """
    seen = _seen(gold)
    masks = {t: _mask(gold[t]) for t in [t for t in seen if t in shown] or seen}
    whole = {t: mask_HW for t, mask_HW in masks.items() if not _touches_border(mask_HW)} or masks
    largest = max(mask_HW.sum() for mask_HW in whole.values())
    return next(t for t, mask_HW in whole.items() if mask_HW.sum() >= 0.9 * largest)


def _is_nearly_as_good(rle: RLE | None, best: RLE | None) -> bool:
    return rle is not None and not _touches_border(_mask(rle)) and _mask(rle).sum() >= 0.7 * _mask(best).sum()


def _mask(rle: RLE | None) -> np.ndarray:
    if rle is None:
        raise ValueError("a frame without the target has no mask")
    return decode(rle)


def _touches_border(mask_HW: np.ndarray) -> bool:
    return bool(mask_HW[[0, -1]].any() or mask_HW[:, [0, -1]].any())


def _place(task: Task, frame_idx: int) -> str:
    if task.gold[frame_idx] is None:
        return ""
    mask_HW = _mask(task.gold[frame_idx])
    ys, xs = np.nonzero(mask_HW)
    return place_of((xs.mean() + 0.5, ys.mean() + 0.5), *mask_HW.shape)


def _seen(gold: tuple[RLE | None, ...]) -> list[int]:
    return [t for t, rle in enumerate(gold) if rle is not None]


def _name(task: Task) -> str:
    """What the target is called; the query in its own words where the data set does not know."""
    return task.caption or task.expression.removeprefix("the ").removeprefix("The ")


def _first_frames(task: Task, config: EnvConfig) -> set[int]:
    whole = Interval(0, task.video.num_frames)
    return {*sample_indices(whole, config.strip_frames), *sample_indices(whole, config.detail_frames)}
