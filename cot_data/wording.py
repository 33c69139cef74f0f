"""How a trace reads: the thinking of one turn in three decoupled steps, in sentences (`full`) or few tokens (`brief`).

The target is always named before any number, so that a small model commits itself to it first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from env.actions import format_decision
from env.types import Answer, Select


@dataclass(frozen=True)
class Thought:
    """What is known when a turn is written. `target` is "" before the evidence is seen, and where nothing matches."""

    query: str
    decision: Select | Answer
    target: str
    place: str  # where the target is in the key frame, "" where that is not known
    seen: tuple[int, ...] = ()  # the shown frames that show the target
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


def _brief(thought: Thought) -> str:
    interval, key = thought.decision.interval, thought.decision.key_frame
    target = thought.target or ("unclear" if thought.matches else "none")
    place = f" {thought.place}" if thought.place else ""
    seen = "".join(f" {t}" for t in thought.seen)
    act = "answer" if isinstance(thought.decision, Answer) else "look"
    return (
        f"Step 1: {target}{seen}, {interval.start} to {interval.end - 1}. Step 2: frame {key}{place}. "
        f"Step 3: {target}. Action: {act}."
    )


def _full(thought: Thought) -> str:
    interval, key = thought.decision.interval, thought.decision.key_frame
    span = f"from frame {interval.start} to frame {interval.end - 1}"
    if not thought.matches:
        return (
            f"Step 1 (temporal): nothing that fits the query shows up anywhere {span}. Step 2 (spatial): in frame "
            f"{key}, as in the others, there is no such object to mark. Step 3 (linguistic): nothing in the video "
            f'matches "{thought.query}". Action: answer that it is absent.'
        )
    if not thought.target:
        return (
            f"Step 1 (temporal): it is not clear yet which object is meant; what decides must show {span}. Step 2 "
            f'(spatial): frame {key} has to be seen large. Step 3 (linguistic): "{thought.query}" can\'t be matched '
            "to one object before that. Action: look closer."
        )
    where = f" on the {thought.place}" if thought.place else ""
    where = " in the center" if thought.place == "center" else where
    act = "answer" if isinstance(thought.decision, Answer) else "look closer to be sure"
    seen = f" shows in frames {', '.join(map(str, thought.seen))} and" if thought.seen else ""
    says = "can be seen" if isinstance(thought.decision, Answer) else "should be looked at"
    return (
        f"Step 1 (temporal): the {thought.target}{seen} {says} {span}. Step 2 (spatial): the {thought.target} is"
        f"{where} best seen in frame {key}. Step 3 (linguistic): the {thought.target} is what "
        f'"{thought.query}" refers to. Action: {act}.'
    )


STYLES: dict[str, Callable[[Thought], str]] = {"full": _full, "brief": _brief}
