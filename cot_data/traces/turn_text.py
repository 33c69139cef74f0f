"""Assemble the text of a turn, and name its target. `prose_style` and `compact_style` write the thinking."""

from __future__ import annotations

from dataclasses import dataclass

from env.actions import format_decision
from env.types import Answer, Select, Task


@dataclass(frozen=True)
class Thought:
    """The thinking of one turn and the decision that follows from it."""

    text: str
    decision: Select | Answer


def write_turn(thought: Thought) -> str:
    """Return the text of a whole turn: the thinking, then the action block."""
    return f"<think>{thought.text}</think>\n{format_decision(thought.decision)}"


def target_name(task: Task) -> str:
    """Return the target's caption, or the expression without its article where the data set has no caption."""
    return task.caption or task.expression.removeprefix("the ").removeprefix("The ")


def noun(caption: str) -> str:
    """Return a noun for a caption that only describes an appearance: "dark blue" becomes "dark blue one"."""
    return f"{caption} one"
