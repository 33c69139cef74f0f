"""The parts of a turn, and names for the target. `prose_style` and `compact_style` beside this write the thinking."""

from __future__ import annotations

from dataclasses import dataclass

from env.actions import format_decision
from env.types import Answer, Select, Task


@dataclass(frozen=True)
class Thought:
    """The thinking of one turn, and what it leads to."""

    text: str
    decision: Select | Answer


def write_turn(thought: Thought) -> str:
    """The text of a whole turn: thinking, then the block."""
    return f"<think>{thought.text}</think>\n{format_decision(thought.decision)}"


def target_name(task: Task) -> str:
    """What the target is called; the query in its own words where the data set does not know."""
    return task.caption or task.expression.removeprefix("the ").removeprefix("The ")


def noun(caption: str) -> str:
    """A caption says what its object looks like and no more: "dark blue"."""
    return f"{caption} one"
