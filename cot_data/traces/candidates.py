"""Find the candidates of a task: its target and the other objects of the video, each with a distinct name.

No labels are needed: the other candidates are the targets of the other expressions of the video. Expressions with equal
masks refer to the same object. A target whose masks overlap with those of a kept candidate is taken for a part of it,
or for a group that contains it, and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cot_data.moving_shapes.labels import LabelledObject
from cot_data.moving_shapes.predicates import MIN_VISIBLE_AREA
from cot_data.traces.parse_expression import DETERMINERS, Parsed, parse_expression
from cot_data.traces.turn_text import noun
from cot_data.traces.visibility import object_views, visible_frames
from env.prompts import clean_query
from env.rle import decode
from env.types import RLE, Task

MAX_OTHERS = 4  # candidates beside the target: each adds words to every turn
MAX_OVERLAP = 0.5  # of the smaller mask; above it in any frame, one object is a part or a group of the other
_OVERLAP_FRAMES = 8  # about how many frames are compared for overlap


@dataclass(frozen=True)
class Candidate:
    """An object of a video as a trace refers to it; `masks` [T], None where it is absent."""

    name: str  # without article: "white dog"
    masks: tuple[RLE | None, ...]
    parsed: Parsed

    @cached_property
    def min_area(self) -> int:
        """Fewest pixels that count as visible: `MIN_VISIBLE_AREA`, or 1 for an object smaller than that everywhere."""
        return MIN_VISIBLE_AREA if any(object_views(self.masks, (t,)) for t in range(len(self.masks))) else 1

    def visible_in(self, frames: Sequence[int]) -> list[int]:
        """Return those of `frames` in which it is visible, in order."""
        return list(object_views(self.masks, frames, self.min_area))


@dataclass(frozen=True)
class Scene:
    """A task with its target (None where nothing matches the query) and the other candidates."""

    task: Task
    target: Candidate | None
    others: tuple[Candidate, ...]  # the one most similar to the target first
    parsed: Parsed  # the expression

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All candidates sorted by name, so that their order does not reveal the target."""
        own = (self.target,) if self.target else ()
        return tuple(sorted((*own, *self.others), key=lambda candidate: candidate.name))


def quotable(expression: str) -> str:
    """Return the expression as a trace quotes it: one sanitized line without double quotes."""
    return clean_query(expression).replace('"', "'").strip(" .")


def build_scene(task: Task, siblings: Sequence[Task] = ()) -> Scene:
    """Return the scene of `task`; `siblings` are the tasks of its video, with or without itself."""
    groups: dict[tuple[str, ...], list[Task]] = {}
    for each in (task, *siblings):
        if visible_frames(each.gold):
            groups.setdefault(_key(each), []).append(each)
    parsed = parse_expression(quotable(task.expression))
    own = groups.pop(_key(task), None)
    others = [min(group, key=lambda each: len(each.expression)) for group in groups.values()]
    parses = {each.task_id: parse_expression(quotable(each.expression)) for each in others}
    kept = [task] if own else []
    for each in sorted(others, key=lambda other: -_num_common_words(task, other)):
        if len(kept) <= MAX_OTHERS and not any(_overlap(each, known) for known in kept):
            kept.append(each)
    names = distinct_names(kept)
    candidates = [
        Candidate(name, each.gold, parses.get(each.task_id, parsed)) for name, each in zip(names, kept, strict=True)
    ]
    return Scene(task, candidates[0] if own else None, tuple(candidates[1:] if own else candidates), parsed)


def labelled_scene(task: Task, objects: Sequence[LabelledObject]) -> Scene:
    """Return the scene of a task of Moving Shapes from its labelled objects; without any, the target is alone."""
    alone = build_scene(task)
    others = [each for each in objects if each.masks != task.gold and visible_frames(each.masks)]
    named = [Candidate(noun(each.caption), each.masks, parse_expression(noun(each.caption))) for each in others]
    return Scene(task, alone.target, tuple(named), alone.parsed)


def same_kind(a: Candidate, b: Candidate) -> bool:
    """Return whether both have the same noun, such as "dog" and "dogs"."""
    return bool(a.parsed.head) and _singular(a.parsed) == _singular(b.parsed)


def distinct_names(tasks: Sequence[Task]) -> list[str]:
    """Return for each target its shortest name that fits no other target.

    Of "a white dog with spots", "a white dog" and "a cat" they are "white dog with spots", "white dog", "cat".
    """
    levels = [_names(task) for task in tasks]
    names = []
    for i, own in enumerate(levels):
        taken = {name.lower() for j, other in enumerate(levels) if j != i for name in other}
        free = [name for name in own if name.lower() not in taken]
        names.append(free[0] if free else f"{own[-1]} ({i + 1})")
    return names


def _names(task: Task) -> list[str]:
    """Names of one target, from short to long."""
    if task.caption:
        return [noun(task.caption)]
    whole = quotable(task.expression)
    first, _, rest = whole.partition(" ")
    whole = rest if first.lower() in DETERMINERS and rest else whole
    parsed = parse_expression(whole)
    if not parsed.head:
        return [whole or "object"]
    tails = [text for text in parsed.attributes if f"{parsed.noun} {text}" in whole]
    return [parsed.head, parsed.noun, *(f"{parsed.noun} {text}" for text in tails[:1]), whole]


def _key(task: Task) -> tuple[str, ...]:
    return tuple("" if rle is None else rle["counts"] for rle in task.gold)


def _singular(parsed: Parsed) -> str:
    return parsed.head.lower().removesuffix("s")


def _num_common_words(task: Task, other: Task) -> int:
    """How many words describe both: the candidates most similar to the target come first."""
    words = [set(f"{each.expression} {each.caption}".lower().split()) - DETERMINERS for each in (task, other)]
    return len(words[0] & words[1])


def _overlap(a: Task, b: Task) -> bool:
    """Whether one target is a part of the other, or a group that contains it."""
    both = [t for t in visible_frames(a.gold) if b.gold[t] is not None]
    for t in both[:: max(1, len(both) // _OVERLAP_FRAMES)]:
        a_HW, b_HW = _mask(a, t), _mask(b, t)
        if (a_HW & b_HW).sum() > MAX_OVERLAP * min(a_HW.sum(), b_HW.sum()):
            return True
    return False


def _mask(task: Task, frame_idx: int) -> np.ndarray:
    rle = task.gold[frame_idx]
    assert rle is not None
    return decode(rle)
