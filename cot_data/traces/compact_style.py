"""Traces for a policy of a few million parameters: few tokens, and each can be looked up in those before it.

    look:   Step 1: checkered unclear. Step 2: 33 to 33, frame 33. Step 3: unclear. Action: look.
    answer: Step 1: checkered closeup A dark blue checkered light red; a dark blue b dark blue light red c light red.
            Step 2: checkered, dark blue a to b, frame z. Step 3: dark blue. Action: answer.

A turn begins with the word that the query turns on, so that what tells apart where to look stands right before the
choice. Traces look too seldom where it pays and too often elsewhere (but a third as often, so that the policy has to
tell the two apart): the rest is for GRPO to find. A look only repeats the query's numbers, or names a frame of the
strip. An answer says who is in each frame of the close-up, with marks, and in each of the strip, repeats what the
query names, and names the target. Frames go by letters (`env.prompts.frame_labels`).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from configs.schema import EnvConfig
from cot_data.moving_shapes.captions import visible_marks
from cot_data.moving_shapes.expressions import name_in
from cot_data.moving_shapes.labels import LabelledObject
from cot_data.moving_shapes.scene import MARKS
from cot_data.traces.turn_text import Thought, target_name
from cot_data.traces.visibility import best_frame, first_frames, see, visible_frames
from env.frames import sample_indices
from env.prompts import KEY_LABEL, ZOOM_LETTERS, frame_labels
from env.types import Answer, Interval, Select, Task

UNCLEAR = "Step 3: unclear."  # of a look, which does not know yet who is meant
_SAYS_LITTLE = frozenset({"the", "a", "an", "shape", "that", "is"})


def brief_thoughts(
    task: Task,
    config: EnvConfig,
    rng: np.random.Generator,
    objects: tuple[LabelledObject, ...],
    zoom_share: float,
) -> list[Thought]:
    """An answer, or a look and an answer; of the target alone where `objects` are not known.

    It looks with probability `zoom_share` where that pays, elsewhere with a third of it.
    """
    objects = objects or (LabelledObject(target_name(task), "", {}, task.gold),)
    scene = _Scene(task, config, objects, first_frames(task, config))
    looks = rng.random() < zoom_share / (1 if task.explore else 3) and config.max_turns > 1
    if not looks:
        return [scene.answer(None)]
    look = scene.look()
    return [look, scene.answer(look.decision)]


def topic(expression: str) -> str:
    """What a query turns on: the name in it, else its first word that says something ("checkered", "moves", "left")."""
    words = [word for word in expression.split() if word.lower() not in _SAYS_LITTLE]
    return name_in(" ".join(words[:2])) or (words or expression.split())[0]


@dataclass(frozen=True)
class _Scene:
    """A task with all that can be seen in the frames of its first observation."""

    task: Task
    config: EnvConfig
    objects: tuple[LabelledObject, ...]
    frames: tuple[int, ...]

    def look(self) -> Thought:
        """Where the query says or else where the evidence is; where there is none, at the target."""
        named = [int(digits) for digits in re.findall(r"\d{1,6}", self.task.expression)] if self.task.explore else []
        if named:
            start, end, key_frame = named[0], named[-1], named[0]
        elif self.task.explore:
            start, end, key_frame = self.task.evidence[0], self.task.evidence[-1], self.task.evidence[0]
        else:
            start = end = key_frame = self._middle()
        labels = {} if self.task.explore else frame_labels(self.frames)
        first, last, key = (labels.get(t, str(t)) for t in (start, end, key_frame))
        text = (
            f"Step 1: {topic(self.task.expression)} unclear. Step 2: {first} to {last}, frame {key}. {UNCLEAR} "
            "Action: look."
        )
        return Thought(text, Select(Interval(start, end + 1), key_frame))

    def answer(self, look: Select | Answer | None) -> Thought:
        """What is seen, then the target, from the first to the last of the frames that show it."""
        gold, labels = self.task.gold, frame_labels(self.frames)
        told = " ".join(f"{labels[t]}{self._who((t,))}" for t in self.frames)
        seen = list(see(gold, self.frames)) or visible_frames(gold)  # shown in no frame: what the masks say
        name, key_frame, closeup = target_name(self.task), self._middle(), ""
        if not seen:
            name, seen = "none", list(self.frames)
        if look:
            closeup = f"closeup {self._closeup(look)}; "
            key_frame = look.key_frame if see(gold, {look.key_frame}) else key_frame
        key = KEY_LABEL if look and key_frame == look.key_frame else labels.get(key_frame, str(key_frame))
        start, end = (labels.get(t, str(t)) for t in (seen[0], seen[-1]))
        clue = self._clue(labels)
        text = (
            f"Step 1: {topic(self.task.expression)} {closeup}{told}. "
            f"Step 2: {clue}{name} {start} to {end}, frame {key}. Step 3: {name}. Action: answer."
        )
        return Thought(text, Answer(Interval(seen[0], seen[-1] + 1), key_frame))

    def _closeup(self, look: Select | Answer) -> str:
        """Frame by frame, as the strip: of a mark that one of them shows it has to be told which one that is."""
        zoom = sample_indices(look.interval, self.config.zoom_frames)  # those that the tool `zoom` shows
        large = {look.key_frame, *(zoom if self.config.zoom_pixels >= self.config.key_pixels else ())}
        labels = {look.key_frame: KEY_LABEL} | frame_labels(zoom, ZOOM_LETTERS)
        return " ".join(f"{labels[t]}{self._who((t,), large)}" for t in sorted(labels))

    def _middle(self) -> int:
        """The middle one of the frames that show the target: that can be told from the list."""
        if not any(self.task.gold):
            return self.frames[len(self.frames) // 2]
        seen = list(see(self.task.gold, self.frames))
        return seen[len(seen) // 2] if seen else best_frame(self.task.gold, set(self.frames))

    def _who(self, frames: tuple[int, ...], large: Collection[int] = ()) -> str:
        """ " dark blue checkered light red": a mark follows its name, which says where to look for it."""
        words: list[str] = []
        for each in self.objects:
            seen = see(each.masks, frames)
            marks = {mark: None for t in seen if large for mark in visible_marks(each, t, t in large)}
            words += [each.caption, *marks] if seen else []
        return "".join(f" {word}" for word in words)

    def _clue(self, labels: dict[int, str]) -> str:
        """What of the query is worth repeating: a mark, a name, for a relation also when both are first there."""
        task = self.task
        if task.explore:
            return next((f"{mark}, " for mark in MARKS if mark in task.expression), "")
        name = name_in(task.expression)
        other = next((each for each in self.objects if each.caption == name), None)
        if task.family == "relation" and other is not None:
            both = see(task.gold, self.frames).keys() & see(other.masks, self.frames).keys()
            return f"{labels[min(both)]} {name}, " if both else f"{name}, "
        return f"{name}, " if name else ""
