"""Cold-start traces (VTS-CoT) from ground truth, for any data set with masks.

In sentences (`full`) an `explore` task is first looked into where its evidence is, without naming the target; any
other one is mostly answered at once. A trace says no more than its frames show: it lists who is seen in which of them,
answers with the interval from the first to the last that show the target, and marks the one that shows it best.
`cot_data.brief` has the other style.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np

from configs.schema import EnvConfig
from cot_data.brief import brief_thoughts
from cot_data.captions import visible_marks
from cot_data.labelled import LabelledObject
from cot_data.records import Message, Record, TraceStep
from cot_data.sights import NEARLY, best_frame, first_frames, see, visible_frames
from cot_data.wording import Known, Sighting, Thought, noun, sentences, target_phrase, write_turn
from env.errors import DataError
from env.frames import sample_indices
from env.prompts import PROMPTS
from env.types import Answer, Interval, Select, Task, names_in

DIRECT_SHARE = 0.75  # of the tasks whose first observation is enough: answered in the first turn
AROUND = 4  # frames looked at on either side of a frame that the query or the evidence names


def write_trace(
    task: Task,
    config: EnvConfig,
    rng: np.random.Generator,
    style: str = "full",
    anno_id: tuple[int | str, ...] = (),
    objects: tuple[LabelledObject, ...] = (),
) -> Record:
    """A dialogue that finds the target of `task` within `config.max_turns`; DataError where its masks are unknown.

    `style` is a key of `STYLES`. With `objects` all of them are listed where they are seen, without them the target.
    """
    if not task.gold:
        raise DataError(f"task {task.task_id}", "expected gold masks to write a trace from, found none")
    thoughts = STYLES[style](task, config, rng, objects)
    video_name, exp_id = names_in(task.task_id)
    turns = [write_turn(thought) for thought in thoughts]
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


def full_thoughts(
    task: Task, config: EnvConfig, rng: np.random.Generator, objects: tuple[LabelledObject, ...]
) -> list[Thought]:
    """One or two turns in sentences."""
    known = _explore(task, config) if task.explore else _plain(task, config, rng)
    if objects:
        known = _with_scene(known, task, config, objects)
    return [Thought(sentences(each), each.decision) for each in known[-config.max_turns :]]


def _with_scene(turns: list[Known], task: Task, config: EnvConfig, objects: tuple[LabelledObject, ...]) -> list[Known]:
    """The turns with all objects in what they see: each one's new frames, the motions in the first."""
    whole = Interval(0, task.video.num_frames)
    small, large = sample_indices(whole, config.strip_frames), set(sample_indices(whole, config.detail_frames))
    scenes: list[Known] = []
    shown: set[int] = set()
    for known in turns:
        new = sorted({*small, *large})
        shown |= set(new)
        seen = [_sighting(each, new, large, shown, with_motion=not scenes) for each in objects]
        scenes.append(replace(known, seen=tuple(sighting for sighting in seen if sighting)))
        small = sample_indices(known.decision.interval, config.zoom_frames)
        large = {known.decision.key_frame}
    return scenes


def _sighting(
    each: LabelledObject, new: list[int], large: set[int], shown: set[int], with_motion: bool
) -> Sighting | None:
    """An object in the `new` ones of the `shown` frames, None where none of the new ones shows it."""
    sights = see(each.masks, shown)
    places = {t: " ".join((*visible_marks(each, t, t in large), sights[t].place)) for t in new if t in sights}
    if not places:
        return None
    return Sighting(noun(each.caption), places, (min(sights), max(sights)), each.motion if with_motion else "")


def _numbers(thought: Thought) -> TraceStep:
    interval = thought.decision.interval
    return TraceStep(interval.start, interval.end - 1, thought.decision.key_frame)


def _conversation(task: Task, config: EnvConfig, turns: list[str]) -> tuple[Message, ...]:
    messages = [Message("system", PROMPTS[config.prompt].system)]
    for i, turn in enumerate(turns):
        messages.append(Message("human", "<image>" if i else f"<image>\n{task.expression}"))
        messages.append(Message("gpt", turn))
    return tuple(messages)


def _explore(task: Task, config: EnvConfig) -> list[Known]:
    select = evidence_select(task)
    shown = {*set(first_frames(task, config)), select.key_frame, *sample_indices(select.interval, config.zoom_frames)}
    return [Known(task.expression, select, "", ""), _answer(task, shown, select.key_frame)]


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


def _plain(task: Task, config: EnvConfig, rng: np.random.Generator) -> list[Known]:
    shown = set(first_frames(task, config))
    if rng.random() < DIRECT_SHARE or not visible_frames(task.gold) or config.max_turns < 2:
        return [_answer(task, shown)]
    select = _refine(task, config)
    after = shown | {select.key_frame, *sample_indices(select.interval, config.zoom_frames)}
    place = see(task.gold, {select.key_frame}, least=1)[select.key_frame].place
    first = Known(task.expression, select, target_phrase(task), place, _target_seen(task, shown))
    return [first, _answer(task, after, select.key_frame)]


def _refine(task: Task, config: EnvConfig) -> Select:
    """Zoom to the gap of the strip in which the target comes or goes, else around the key frame; see that one large."""
    strip = sample_indices(Interval(0, task.video.num_frames), config.strip_frames)
    seen = visible_frames(task.gold)
    key_frame = best_frame(task.gold, set(strip))
    for start, end in pairwise(strip):
        if start < seen[0] <= end or start <= seen[-1] < end:
            return Select(Interval(start, end + 1), key_frame)
    start, end = max(key_frame - AROUND, 0), min(key_frame + AROUND, task.video.num_frames - 1)
    return Select(Interval(start, end + 1), key_frame)


def _answer(task: Task, shown: set[int], large: int | None = None) -> Known:
    """The last turn; a query that nothing answers to gets the whole video and its middle frame.

    `large` is the key frame that was just shown: it stays the key frame if it is nearly as good as the best one.
    """
    num_frames = task.video.num_frames
    if not visible_frames(task.gold):
        return Known(task.expression, Answer(Interval(0, num_frames), num_frames // 2), "", "", matches=False)
    sights = see(task.gold, shown)
    key_frame = best_frame(task.gold, shown)
    best = see(task.gold, {key_frame}, least=1)[key_frame]
    if large in sights and not sights[large].is_cut and sights[large].area >= NEARLY * best.area:
        key_frame, best = large, sights[large]
    between = list(sights) or visible_frames(task.gold)  # a target that no shown frame shows: what the masks say
    answer = Answer(Interval(between[0], between[-1] + 1), key_frame)
    return Known(task.expression, answer, target_phrase(task), best.place, _target_seen(task, shown))


def _target_seen(task: Task, shown: set[int]) -> tuple[Sighting, ...]:
    """The target alone, where a frame shows it."""
    places = {t: sight.place for t, sight in see(task.gold, shown).items()}
    return (Sighting(target_phrase(task), places, (min(places), max(places))),) if places else ()


STYLES: dict[str, Callable[[Task, EnvConfig, np.random.Generator, tuple[LabelledObject, ...]], list[Thought]]] = {
    "full": full_thoughts,
    "brief": brief_thoughts,
}
