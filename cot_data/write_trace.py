"""Cold-start traces (VTS-CoT) from ground truth, for any data set with masks.

Some tasks are first looked into (how many, and which, is a matter of style): an `explore` task where its evidence is,
any other one around the target's best frame. A trace says no more than its frames show: it lists who is seen in which
of them, answers with the interval from the first to the last that show the target, and marks the one in which the
target can be seen best. Only the name of a target whose evidence was not looked at is known from elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from configs.schema import EnvConfig
from cot_data.captions import visible_marks
from cot_data.expressions import SEEN_AREA, name_in
from cot_data.labelled import LabelledObject
from cot_data.records import Message, Record, TraceStep
from cot_data.shapes import MARKS
from cot_data.wording import STYLES, Sighting, Thought, place_of, write_turn
from env.errors import DataError
from env.frames import sample_indices
from env.prompts import PROMPTS
from env.rle import decode
from env.types import RLE, Answer, Interval, Select, Task

NEARLY = 0.7  # of the largest area: as good a key frame, and the earliest of them is easily named
AROUND = 4  # frames looked at on either side of a frame that the query or the evidence names


@dataclass(frozen=True)
class Sight:
    """What one frame shows of the target."""

    area: int  # pixels
    is_cut: bool  # by the frame's border
    place: str


def write_trace(
    task: Task,
    config: EnvConfig,
    rng: np.random.Generator,
    style: str = "full",
    anno_id: tuple[int | str, ...] = (),
    objects: tuple[LabelledObject, ...] = (),
) -> Record:
    """A dialogue that finds the target of `task` within `config.max_turns`; DataError where its masks are unknown.

    `style` is a key of `cot_data.wording.STYLES`. With `objects` every turn lists all of them that its new frames
    show, without them only the target.
    """
    if not task.gold:
        raise DataError(f"task {task.task_id}", "expected gold masks to write a trace from, found none")
    looks = STYLES[style].looks(task.explore, rng) and bool(_seen(task.gold)) and config.max_turns > 1
    is_blind = STYLES[style].looks_blindly
    thoughts = _thoughts(task, config, looks, is_blind)
    if objects:
        thoughts = _with_scene(thoughts, task, config, objects, is_blind)
    video_name, exp_id = task.task_id.split("/", 1)[1].rsplit("/", 1)
    turns = [write_turn(thought, style) for thought in thoughts]
    whole = Interval(0, task.video.num_frames)
    return Record(
        video_name=video_name,
        frames=task.video.frames,
        exp=task.expression,
        anno_id=anno_id,
        sample_frame_indice=sample_indices(whole, config.detail_frames),
        round_num=len(turns),
        cot_trace=tuple(_numbers(thought) for thought in thoughts),
        conversations=_conversation(task, config, turns),
        exp_id=exp_id,
    )


def _with_scene(
    thoughts: list[Thought], task: Task, config: EnvConfig, objects: tuple[LabelledObject, ...], last_tells_all: bool
) -> list[Thought]:
    """The thoughts with all objects in what they tell: each turn's new frames, or in the last turn what came first and
    the large frame that was asked for."""
    whole = Interval(0, task.video.num_frames)
    small, large = sample_indices(whole, config.strip_frames), set(sample_indices(whole, config.detail_frames))
    first = {*small, *large}
    clue = _clue(task, objects, sorted(first))
    scenes: list[Thought] = []
    shown: set[int] = set()
    for thought in thoughts:
        shown |= {*small, *large}
        new = sorted(first if last_tells_all else {*small, *large})
        listed = sorted({*new, *thought.closeup})
        seen = [_sighting(each, listed, large, shown, with_motion=not scenes) for each in objects]
        told = tuple(sighting for sighting in seen if sighting)
        scenes.append(replace(thought, frames=tuple(new), seen=told, clue=clue))
        small = sample_indices(thought.decision.interval, config.zoom_frames)
        large = {thought.decision.key_frame}
    return scenes


def _sighting(
    each: LabelledObject, new: list[int], large: set[int], shown: set[int], with_motion: bool
) -> Sighting | None:
    """An object in the `new` ones of the `shown` frames, None where none of the new ones shows it."""
    sights = see(each.masks, shown)
    places = {t: sights[t].place for t in new if t in sights}
    if not places:
        return None
    marks = {t: " ".join(worn) for t in places if (worn := visible_marks(each, t, t in large))}
    return Sighting(each.caption, places, marks, (min(sights), max(sights)), each.motion if with_motion else "")


def _clue(task: Task, objects: tuple[LabelledObject, ...], frames: list[int]) -> str:
    """What of the query is worth repeating: a mark, a name, or the other one of a relation and when both are there."""
    if task.explore:
        return next((mark for mark in MARKS if mark in task.expression), "")
    name = name_in(task.expression)
    other = next((each for each in objects if each.caption == name), None)
    if task.family != "relation" or other is None:
        return name
    both = see(task.gold, frames).keys() & see(other.masks, frames).keys()
    return f"{min(both)} {name}" if both else name


def _numbers(thought: Thought) -> TraceStep:
    interval = thought.decision.interval
    return TraceStep(interval.start, interval.end - 1, thought.decision.key_frame)


def _conversation(task: Task, config: EnvConfig, turns: list[str]) -> tuple[Message, ...]:
    messages = [Message("system", PROMPTS[config.prompt].system)]
    for i, turn in enumerate(turns):
        messages.append(Message("human", "<image>" if i else f"<image>\n{task.expression}"))
        messages.append(Message("gpt", turn))
    return tuple(messages)


def _thoughts(task: Task, config: EnvConfig, looks: bool, is_blind: bool) -> list[Thought]:
    shown = _first_frames(task, config)
    if not looks:
        return [_answer(task, shown)]
    around = 0 if is_blind else AROUND  # a blind look only repeats numbers: those of the query, or one that it chooses
    select = evidence_select(task, around) if task.explore else _refine(task, config, around)
    after = shown if is_blind else shown | {select.key_frame, *sample_indices(select.interval, config.zoom_frames)}
    if task.explore:
        first = Thought(task.expression, select, "", "")
    else:
        place = see(task.gold, {select.key_frame}, least=1)[select.key_frame].place
        first = replace(_about(task, select, place, shown), target=_name(task))
    closeup = tuple(sorted({select.key_frame, *sample_indices(select.interval, config.zoom_frames)}))
    return [first, replace(_answer(task, after, select.key_frame), closeup=closeup)]


def evidence_select(task: Task, around: int = AROUND) -> Select:
    """Where to look: where the query says, if it names frames and the evidence is there, else around the evidence.

    A policy can only learn to look where the query points. With `around` 0 it has nothing to compute: an interval is
    zoomed into as it is named, and its first frame stands for the key frame.
    """
    numbers = [int(digits) for digits in re.findall(r"\d{1,6}", task.expression)]
    start, end = (numbers[0], numbers[-1]) if numbers else (task.evidence[0], task.evidence[-1])
    if numbers and not around:
        return Select(Interval(start, end + 1), start)
    key_frame = (start + end) // 2
    if key_frame not in task.evidence:
        start, end = task.evidence[0], task.evidence[-1]
        key_frame = task.evidence[len(task.evidence) // 2]
    if start == end or not numbers:
        return _frames_around(task, start, end, key_frame, around)
    return Select(Interval(start, end + 1), key_frame)


def _refine(task: Task, config: EnvConfig, around: int) -> Select:
    """Around the frame of the strip that shows the target best: see that one large."""
    strip = sample_indices(Interval(0, task.video.num_frames), config.strip_frames)
    key_frame = best_frame(task.gold, set(strip))
    return _frames_around(task, key_frame, key_frame, key_frame, around)


def _frames_around(task: Task, start: int, end: int, key_frame: int, around: int) -> Select:
    last = task.video.num_frames - 1
    return Select(Interval(max(start - around, 0), min(end + around, last) + 1), key_frame)


def _answer(task: Task, shown: set[int], large: int | None = None) -> Thought:
    """The last turn; a query that nothing answers to gets the whole video and its middle frame.

    `large` is the key frame that was just shown: it stays the key frame if it is nearly as good as the best one.
    """
    num_frames = task.video.num_frames
    if not _seen(task.gold):
        answer = Answer(Interval(0, num_frames), num_frames // 2)
        return Thought(task.expression, answer, "", "", matches=False)
    sights = see(task.gold, shown)
    key_frame = best_frame(task.gold, shown)
    best = see(task.gold, {key_frame}, least=1)[key_frame]
    asked = see(task.gold, {large}).get(large) if large is not None else None
    if large is not None and asked and not asked.is_cut and asked.area >= NEARLY * best.area:
        key_frame, best = large, asked
    between = list(sights) or _seen(task.gold)  # a target that no shown frame shows: what the masks say
    answer = Answer(Interval(between[0], between[-1] + 1), key_frame)
    return _about(task, answer, best.place, shown)


def _about(task: Task, decision: Select | Answer, place: str, shown: set[int]) -> Thought:
    """A thought that tells of the target alone, where a frame shows it."""
    places = {t: sight.place for t, sight in see(task.gold, shown).items()}
    seen = (Sighting(_name(task), places, {}, (min(places), max(places))),) if places else ()
    return Thought(task.expression, decision, _name(task), place, tuple(places), seen=seen)


def see(gold: tuple[RLE | None, ...], frames: Iterable[int], least: int = SEEN_AREA) -> dict[int, Sight]:
    """What each of `frames` shows of an object, in order; those that show fewer than `least` pixels are left out."""
    sights = {t: _sight(*rle["size"], rle["counts"]) for t in sorted(frames) if (rle := gold[t]) is not None}
    return {t: sight for t, sight in sights.items() if sight.area >= least}


@lru_cache(maxsize=2**18)
def _sight(height: int, width: int, counts: str) -> Sight:
    """Kept, because a cold start writes traces from the same masks again and again."""
    mask_HW = decode({"size": [height, width], "counts": counts})
    ys, xs = np.nonzero(mask_HW)
    is_cut = bool(mask_HW[[0, -1]].any() or mask_HW[:, [0, -1]].any())
    return Sight(len(xs), is_cut, place_of((xs.mean() + 0.5, ys.mean() + 0.5), height, width))


def best_frame(gold: tuple[RLE | None, ...], shown: set[int]) -> int:
    """The frame that shows the target largest and whole, among the `shown` ones that show it, else among all.

    Of sizes that are nearly the largest the earliest wins; a target cut by the border only if all are.
    """
    sights = see(gold, shown) or see(gold, range(len(gold))) or see(gold, range(len(gold)), least=1)
    whole = {t: sight for t, sight in sights.items() if not sight.is_cut} or sights
    largest = max(sight.area for sight in whole.values())
    return next(t for t, sight in whole.items() if sight.area >= NEARLY * largest)


def _seen(gold: tuple[RLE | None, ...]) -> list[int]:
    return [t for t, rle in enumerate(gold) if rle is not None]


def _name(task: Task) -> str:
    """What the target is called; the query in its own words where the data set does not know."""
    return task.caption or task.expression.removeprefix("the ").removeprefix("The ")


def _first_frames(task: Task, config: EnvConfig) -> set[int]:
    whole = Interval(0, task.video.num_frames)
    return {*sample_indices(whole, config.strip_frames), *sample_indices(whole, config.detail_frames)}
