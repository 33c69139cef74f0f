"""A task with what else is in its video: the other objects that have masks, and a name for each by which to tell them.

Needs no labels: the candidates of a task are the targets of the other expressions of its video. An expression with the
same masks is about the same object; one whose masks overlap with those kept already is about a part or a group of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cot_data.moving_shapes.expressions import SEEN_AREA
from cot_data.moving_shapes.labels import LabelledObject
from cot_data.traces.parse_expression import DETERMINERS, Parsed, parse_expression
from cot_data.traces.turn_text import noun
from cot_data.traces.visibility import see, visible_frames
from env.prompts import clean_query
from env.rle import decode
from env.types import RLE, Task

MOST_OTHERS = 4  # candidates beside the target: each costs words in every turn
SHARED = 0.5  # of the smaller mask; what shares more in a frame is a part or a group of the other
_PROBES = 8  # frames in which masks are laid over each other


@dataclass(frozen=True)
class Thing:
    """An object of a video as a trace speaks of it; `masks` [T], None where it is absent."""

    name: str  # without article: "white dog"
    masks: tuple[RLE | None, ...]
    parsed: Parsed

    @cached_property
    def least(self) -> int:
        """Fewest pixels by which it counts as seen: `SEEN_AREA`, but for what is smaller than that in every frame."""
        return SEEN_AREA if any(see(self.masks, (t,)) for t in range(len(self.masks))) else 1

    def seen_in(self, frames: Sequence[int]) -> list[int]:
        """Those of `frames` that show it, in order."""
        return list(see(self.masks, frames, self.least))


@dataclass(frozen=True)
class Scene:
    """A task, its target (None where nothing answers to the query) and the other candidates."""

    task: Task
    target: Thing | None
    others: tuple[Thing, ...]  # the likest first
    parsed: Parsed  # the expression

    @property
    def things(self) -> tuple[Thing, ...]:
        """All candidates by name, so that their order does not tell which one is meant."""
        own = (self.target,) if self.target else ()
        return tuple(sorted((*own, *self.others), key=lambda thing: thing.name))


def quotable(expression: str) -> str:
    """The expression as a trace quotes it: one harmless line, without quotes of its own."""
    return clean_query(expression).replace('"', "'").strip(" .")


def scene_of(task: Task, siblings: Sequence[Task] = ()) -> Scene:
    """The scene of `task`; `siblings` are the tasks of its video, itself among them or not."""
    groups: dict[tuple[str, ...], list[Task]] = {}
    for each in (task, *siblings):
        if visible_frames(each.gold):
            groups.setdefault(_key(each), []).append(each)
    parsed = parse_expression(quotable(task.expression))
    own = groups.pop(_key(task), None)
    others = [min(group, key=lambda each: len(each.expression)) for group in groups.values()]
    parses = {each.task_id: parse_expression(quotable(each.expression)) for each in others}
    kept = [task] if own else []
    for each in sorted(others, key=lambda other: -_shared_words(task, other)):
        if len(kept) <= MOST_OTHERS and not any(_overlap(each, known) for known in kept):
            kept.append(each)
    names = distinct_names(kept)
    things = [Thing(name, each.gold, parses.get(each.task_id, parsed)) for name, each in zip(names, kept, strict=True)]
    return Scene(task, things[0] if own else None, tuple(things[1:] if own else things), parsed)


def labelled_scene(task: Task, objects: Sequence[LabelledObject]) -> Scene:
    """The scene of a task of Moving Shapes, all of whose objects are known; without any the target is alone in it."""
    alone = scene_of(task)
    others = [each for each in objects if each.masks != task.gold and visible_frames(each.masks)]
    named = [Thing(noun(each.caption), each.masks, parse_expression(noun(each.caption))) for each in others]
    return Scene(task, alone.target, tuple(named), alone.parsed)


def same_kind(a: Thing, b: Thing) -> bool:
    """Whether both are called by the same noun, such as "dog" and "dogs"."""
    return bool(a.parsed.head) and _singular(a.parsed) == _singular(b.parsed)


def distinct_names(tasks: Sequence[Task]) -> list[str]:
    """The shortest name of each target that could not stand for another one.

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


def _shared_words(task: Task, other: Task) -> int:
    """How many words both are described by: what is most like a target is told of first."""
    words = [set(f"{each.expression} {each.caption}".lower().split()) - DETERMINERS for each in (task, other)]
    return len(words[0] & words[1])


def _overlap(a: Task, b: Task) -> bool:
    """Whether one target is a part of the other, or a group with it."""
    both = [t for t in visible_frames(a.gold) if b.gold[t] is not None]
    for t in both[:: max(1, len(both) // _PROBES)]:
        a_HW, b_HW = _mask(a, t), _mask(b, t)
        if (a_HW & b_HW).sum() > SHARED * min(a_HW.sum(), b_HW.sum()):
            return True
    return False


def _mask(task: Task, frame_idx: int) -> np.ndarray:
    rle = task.gold[frame_idx]
    assert rle is not None
    return decode(rle)
