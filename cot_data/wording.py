"""How a trace reads: the thinking of one turn in three decoupled steps, in sentences (`full`) or few tokens (`brief`).

Step 1 (temporal) says who is in which frames, step 2 (spatial) names the target, its interval and its place in the key
frame, step 3 (linguistic) says whether it fits the query.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np

from env.actions import format_decision
from env.types import Answer, Select


@dataclass(frozen=True)
class Sighting:
    """One object in the frames that a turn tells of."""

    name: str
    places: dict[int, str]  # per frame that shows it: {4: "upper left"}
    marks: dict[int, str]  # what it can be seen to wear: {9: "flash"}
    span: tuple[int, int]  # the first and the last frame, of all shown so far, that show it
    motion: str = ""  # "moves left", "" where that is not known


@dataclass(frozen=True)
class Thought:
    """What is known when a turn is written. `target` is "" before the evidence is seen, and where nothing matches."""

    query: str
    decision: Select | Answer
    target: str
    place: str  # where the target is in the key frame, "" where that is not known
    frames: tuple[int, ...] = ()  # those that the turn tells of
    closeup: tuple[int, ...] = ()  # those that were asked for
    seen: tuple[Sighting, ...] = ()
    clue: str = ""  # what the query names: "dark blue", "checkered", or with the frame that decides "4 dark blue"
    matches: bool = True  # False: nothing in the video answers to the query


@dataclass(frozen=True)
class Style:
    """How a turn is put into words, and when a trace made in this style looks and tells."""

    think: Callable[[Thought], str]
    look_share: float  # of the tasks that need no look
    looks_blindly: bool  # a look says only where; what is seen is told when the target is named

    def looks(self, explore: str, rng: np.random.Generator) -> bool:
        """Whether a trace looks closer before it answers. A blind look knows nothing of what it is worth."""
        drawn = rng.random() < self.look_share
        return drawn or (bool(explore) and not self.looks_blindly)


def write_turn(thought: Thought, style: str) -> str:
    """The text of a whole turn: thinking, then the block."""
    return f"<think>{STYLES[style].think(thought)}</think>\n{format_decision(thought.decision)}"


_ROWS, _COLUMNS = ("upper", "", "lower"), ("left", "", "right")
PLACES = tuple(" ".join(filter(None, words)) or "center" for words in product(_ROWS, _COLUMNS))


def place_of(center: tuple[float, float], height: int, width: int) -> str:
    """One of nine places for a point (x, y) in pixels: "upper left", "center", "lower", .."""
    x, y = center
    return PLACES[3 * min(int(3 * y / height), 2) + min(int(3 * x / width), 2)]


def place_in(mask_HW: np.ndarray) -> str:
    """The place of a mask's centre."""
    ys, xs = np.nonzero(mask_HW)
    return place_of((float(xs.mean()) + 0.5, float(ys.mean()) + 0.5), *mask_HW.shape)


def _brief(thought: Thought) -> str:
    """Each frame with who is in it, what the query names, the answer: few tokens, each looked up in those before."""
    interval, key = thought.decision.interval, thought.decision.key_frame
    where = f"{interval.start} to {interval.end - 1}, frame {key}"
    if isinstance(thought.decision, Select):
        return f"Step 1: unclear. Step 2: {where}. Step 3: unclear. Action: look."
    target = thought.target or "none"
    told = " ".join(f"{t}{_who(thought, (t,), with_marks=False)}" for t in thought.frames) or "nothing"
    closeup = f"closeup{_who(thought, thought.closeup, with_marks=True)}; " if thought.closeup else ""
    clue = f"{thought.clue}, " if thought.clue else ""
    where = f"{where} {thought.place}".rstrip()
    return f"Step 1: {closeup}{told}. Step 2: {clue}{target} {where}. Step 3: {target}. Action: answer."


def _who(thought: Thought, frames: tuple[int, ...], with_marks: bool) -> str:
    """ " checkered dark blue light red": a mark stands before the name that it tells from the others."""
    words: list[str] = []
    for each in thought.seen:
        if any(t in each.places for t in frames):
            worn = {each.marks[t]: None for t in frames if t in each.marks} if with_marks else {}
            words += [*worn, each.name]
    return "".join(f" {word}" for word in words)


def _sentence(sighting: Sighting) -> str:
    """ "The dark blue shows in frame 4 (upper left), 8 (left). It moves down, from 4 to 8." """
    seen = {t: f"{sighting.marks.get(t, '')} {place}".strip() for t, place in sighting.places.items()}
    places = ", ".join(f"{t} ({words})" for t, words in seen.items())
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


STYLES: dict[str, Style] = {
    "full": Style(_full, look_share=0.25, looks_blindly=False),
    "brief": Style(_brief, look_share=0.45, looks_blindly=True),
}
