"""Write the thinking of a turn in few tokens, for a policy of a few million parameters.

    zoom:   Step 1: checkered unclear. Step 2: 33 to 33, frame 33. Step 3: unclear. Action: look.
    answer: Step 1: checkered closeup A dark blue checkered light red; a dark blue b dark blue light red c light red.
            Step 2: checkered, dark blue a to b, frame z. Step 3: dark blue. Action: answer.

Every token can be looked up in the tokens before it. A turn begins with the topic of the query, the word that decides
whether to zoom, so that it directly precedes that decision. A zoom repeats the numbers of the query, or names a frame
of the strip. An answer lists the objects in each frame of the close-up, with marks, and in each frame of the strip;
then it repeats what the query names, and names the target. Letters stand for frames (`env.prompts.frame_labels`).

Traces zoom too rarely where zooming pays, and a third as often where it does not, so that the policy has to distinguish
the two cases. GRPO has to learn the rest.
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
from cot_data.traces.visibility import best_frame, first_frames, object_views, visible_frames
from env.prompts import KEY_LABEL, ZOOM_LETTERS, frame_labels
from env.spacing import zoom_frames
from env.types import Answer, Interval, Select, Task

UNCLEAR = "Step 3: unclear."  # of a zoom, which does not know the target yet
_STOP_WORDS = frozenset({"the", "a", "an", "shape", "that", "is"})


def compact_turns(
    task: Task,
    config: EnvConfig,
    rng: np.random.Generator,
    objects: tuple[LabelledObject, ...],
    zoom_share: float,
) -> list[Thought]:
    """Return an answer, or a zoom and an answer.

    Args:
        task: a task with known masks.
        config: frames per observation, and the number of turns; with one turn there is no zoom.
        rng: takes one number, which decides whether to zoom.
        objects: all objects of the video; if empty, the trace mentions only the target.
        zoom_share: probability of a zoom where the evidence is outside of the first observation; elsewhere a third of
            it applies.

    Returns:
        One or two thoughts.
    """
    objects = objects or (LabelledObject(target_name(task), "", {}, task.gold),)
    writer = CompactWriter(task, config, objects, first_frames(task, config))
    has_zoom = rng.random() < zoom_share / (1 if task.explore else 3) and config.max_turns > 1
    if not has_zoom:
        return [writer.answer(None)]
    zoom = writer.zoom()
    return [zoom, writer.answer(zoom.decision)]


def topic(expression: str) -> str:
    """Return the name in a query, else its first word with content ("checkered", "moves", "left")."""
    words = [word for word in expression.split() if word.lower() not in _STOP_WORDS]
    return name_in(" ".join(words[:2])) or (words or expression.split())[0]


@dataclass(frozen=True)
class CompactWriter:
    """Writes the turns of one task; `frames` are those of the first observation."""

    task: Task
    config: EnvConfig
    objects: tuple[LabelledObject, ...]
    frames: tuple[int, ...]

    def zoom(self) -> Thought:
        """Zoom where the query says, else on the evidence; without evidence, on the target."""
        named = [int(digits) for digits in re.findall(r"\d{1,6}", self.task.expression)] if self.task.explore else []
        if named and named[0] <= named[-1] < self.task.video.num_frames:
            start, end, key_frame = named[0], named[-1], named[0]
        elif self.task.explore and self.task.evidence:
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

    def answer(self, zoom: Select | Answer | None) -> Thought:
        """List what is visible, then name the target and the first and last frame that show it.

        `zoom` is the decision of the turn before, None without one.
        """
        gold, labels = self.task.gold, frame_labels(self.frames)
        strip = " ".join(f"{labels[t]}{self._names((t,))}" for t in self.frames)
        seen = list(object_views(gold, self.frames)) or visible_frames(gold)  # no frame shows it: use the masks
        name, key_frame, closeup = target_name(self.task), self._middle(), ""
        if not seen:
            name, seen = "none", list(self.frames)
        if zoom:
            closeup = f"closeup {self._closeup(zoom)}; "
            key_frame = zoom.key_frame if object_views(gold, {zoom.key_frame}) else key_frame
        key = KEY_LABEL if zoom and key_frame == zoom.key_frame else labels.get(key_frame, str(key_frame))
        start, end = (labels.get(t, str(t)) for t in (seen[0], seen[-1]))
        clue = self._clue(labels)
        text = (
            f"Step 1: {topic(self.task.expression)} {closeup}{strip}. "
            f"Step 2: {clue}{name} {start} to {end}, frame {key}. Step 3: {name}. Action: answer."
        )
        return Thought(text, Answer(Interval(seen[0], seen[-1] + 1), key_frame))

    def _closeup(self, zoom: Select | Answer) -> str:
        """The objects in each zoomed frame: the frame that shows a mark has to be identified."""
        frames = zoom_frames(zoom.interval, self.config)
        large = {zoom.key_frame, *(frames if self.config.zoom_pixels >= self.config.key_pixels else ())}
        labels = {zoom.key_frame: KEY_LABEL} | frame_labels(frames, ZOOM_LETTERS)
        return " ".join(f"{labels[t]}{self._names((t,), large)}" for t in sorted(labels))

    def _middle(self) -> int:
        """The middle one of the shown frames that show the target, which the policy can find in the list."""
        if not any(self.task.gold):
            return self.frames[len(self.frames) // 2]
        seen = list(object_views(self.task.gold, self.frames))
        return seen[len(seen) // 2] if seen else best_frame(self.task.gold, set(self.frames))

    def _names(self, frames: tuple[int, ...], large: Collection[int] = ()) -> str:
        """ " dark blue checkered light red": each object's name, then its marks in frames that are `large`."""
        words: list[str] = []
        for each in self.objects:
            seen = object_views(each.masks, frames)
            marks = {mark: None for t in seen if large for mark in visible_marks(each, t, t in large)}
            words += [each.caption, *marks] if seen else []
        return "".join(f" {word}" for word in words)

    def _clue(self, labels: dict[int, str]) -> str:
        """The part of the query to repeat: a mark or a name; for a relation also the first frame that shows both."""
        task = self.task
        if task.explore:
            return next((f"{mark}, " for mark in MARKS if mark in task.expression), "")
        name = name_in(task.expression)
        other = next((each for each in self.objects if each.caption == name), None)
        if task.family == "relation" and other is not None:
            both = object_views(task.gold, self.frames).keys() & object_views(other.masks, self.frames).keys()
            return f"{labels[min(both)]} {name}, " if both else f"{name}, "
        return f"{name}, " if name else ""
