"""How a trace reads: the thinking of one turn in three decoupled steps, in sentences (`full`) or few tokens (`brief`).

Step 1 (temporal) follows each object through the frames, step 2 (spatial) names the target, its interval and its place
in the key frame, step 3 (linguistic) says whether it fits the query.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from env.actions import format_decision
from env.types import Answer, Select


@dataclass(frozen=True)
class Sighting:
    """One object in the frames that a turn shows anew."""

    name: str
    places: dict[int, str]  # per frame that shows it, with the marks it wears: {4: "upper left", 9: "flash left"}
    span: tuple[int, int]  # the first and the last frame, of all shown so far, that show it
    motion: str = ""  # "moves left", "" where that is not known


@dataclass(frozen=True)
class Thought:
    """What is known when a turn is written. `target` is "" before the evidence is seen, and where nothing matches."""

    query: str
    decision: Select | Answer
    target: str
    place: str  # where the target is in the key frame, "" where that is not known
    seen: tuple[Sighting, ...] = ()
    matches: bool = True  # False: nothing in the video answers to the query


def write_turn(thought: Thought, style: str) -> str:
    """The text of a whole turn: thinking, then the block."""
    return f"<think>{STYLES[style](thought)}</think>\n{format_decision(thought.decision)}"


def place_of(center: tuple[float, float], height: int, width: int) -> str:
    """One of nine places for a point (x, y) in pixels: "upper left", "center", "lower", .."""
    x, y = center
    rows, cols = ("upper", "", "lower"), ("left", "", "right")
    words = (rows[min(int(3 * y / height), 2)], cols[min(int(3 * x / width), 2)])
    return " ".join(word for word in words if word) or "center"


def place_in(mask_HW: np.ndarray) -> str:
    """The place of a mask's centre."""
    ys, xs = np.nonzero(mask_HW)
    return place_of((float(xs.mean()) + 0.5, float(ys.mean()) + 0.5), *mask_HW.shape)


def _brief(thought: Thought) -> str:
    interval, key = thought.decision.interval, thought.decision.key_frame
    target = thought.target or ("unclear" if thought.matches else "none")
    seen = ", ".join(_words(each) for each in thought.seen) or "nothing"
    act = "answer" if isinstance(thought.decision, Answer) else "look"
    where = f"frame {key} {thought.place}".rstrip()
    return (
        f"Step 1: {seen}. Step 2: {target} {interval.start} to {interval.end - 1}, {where}. "
        f"Step 3: {target}. Action: {act}."
    )


def _words(sighting: Sighting) -> str:
    """ "dark blue 4 upper left 8 left, dark blue moves down 4 to 8".

    The name stands beside what queries ask for, motion and span: from there it is easily looked up.
    """
    places = " ".join(f"{t} {place}" for t, place in sighting.places.items())
    start, end = sighting.span
    summary = " ".join(word for word in (sighting.name, sighting.motion, f"{start} to {end}") if word)
    return f"{sighting.name} {places}, {summary}"


def _sentence(sighting: Sighting) -> str:
    """ "The dark blue shows in frame 4 (upper left), 8 (left). It moves down, from 4 to 8." """
    places = ", ".join(f"{t} ({place})" for t, place in sighting.places.items())
    start, end = sighting.span
    return f"The {sighting.name} shows in frame {places}. It {sighting.motion or 'is there'}, from {start} to {end}. "


def _full(thought: Thought) -> str:
    interval, key = thought.decision.interval, thought.decision.key_frame
    span = f"from frame {interval.start} to frame {interval.end - 1}"
    seen = "".join(_sentence(each) for each in thought.seen)
    if not thought.matches:
        return (
            f"Step 1 (temporal): {seen}Nothing that fits the query shows up anywhere {span}. Step 2 (spatial): in "
            f"frame {key}, as in the others, there is no such object to mark. Step 3 (linguistic): nothing in the "
            f'video matches "{thought.query}". Action: answer that it is absent.'
        )
    if not thought.target:
        return (
            f"Step 1 (temporal): {seen}It is not clear yet which object is meant; what decides must show {span}. Step "
            f'2 (spatial): frame {key} has to be seen large. Step 3 (linguistic): "{thought.query}" can\'t be matched '
            "to one object before that. Action: look closer."
        )
    where = f" on the {thought.place}" if thought.place else ""
    where = " in the center" if thought.place == "center" else where
    act = "answer" if isinstance(thought.decision, Answer) else "look closer to be sure"
    says = "can be seen" if isinstance(thought.decision, Answer) else "should be looked at"
    return (
        f"Step 1 (temporal): {seen}The {thought.target} {says} {span}. Step 2 (spatial): the {thought.target} is"
        f"{where} best seen in frame {key}. Step 3 (linguistic): the {thought.target} is what "
        f'"{thought.query}" refers to. Action: {act}.'
    )


STYLES: dict[str, Callable[[Thought], str]] = {"full": _full, "brief": _brief}
