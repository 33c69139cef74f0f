"""How a trace reads in sentences: the thinking of one turn in three decoupled steps.

Step 1 (temporal) follows each object through the frames, step 2 (spatial) names the target, its interval and its place
in the key frame, step 3 (linguistic) says whether it fits the query. `cot_data.brief` says it in few tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from env.actions import format_decision
from env.types import Answer, Select, Task


@dataclass(frozen=True)
class Thought:
    """The thinking of one turn, and what it leads to."""

    text: str
    decision: Select | Answer


@dataclass(frozen=True)
class Sighting:
    """One object in the frames that a turn shows anew."""

    name: str
    places: dict[int, str]  # per frame that shows it, with the marks it wears: {4: "upper left", 9: "flash left"}
    span: tuple[int, int]  # the first and the last frame, of all shown so far, that show it
    motion: str = ""  # "moves left", "" where that is not known


@dataclass(frozen=True)
class Known:
    """What is known when a turn is written. `target` is "" before the evidence is seen, and where nothing matches."""

    query: str
    decision: Select | Answer
    target: str
    place: str  # where the target is in the key frame, "" where that is not known
    seen: tuple[Sighting, ...] = ()
    matches: bool = True  # False: nothing in the video answers to the query


def write_turn(thought: Thought) -> str:
    """The text of a whole turn: thinking, then the block."""
    return f"<think>{thought.text}</think>\n{format_decision(thought.decision)}"


def target_name(task: Task) -> str:
    """What the target is called; the query in its own words where the data set does not know."""
    return task.caption or task.expression.removeprefix("the ").removeprefix("The ")


def target_phrase(task: Task) -> str:
    """`target_name` as a noun of a sentence: "dark blue one"."""
    return noun(task.caption) if task.caption else target_name(task)


def noun(caption: str) -> str:
    """A caption says what its object looks like and no more: "dark blue"."""
    return f"{caption} one"


def _sentence(sighting: Sighting) -> str:
    """ "The dark blue one shows in frame 4 (upper left), 8 (left). It moves down, from 4 to 8." """
    places = ", ".join(f"{t} ({place})" for t, place in sighting.places.items())
    start, end = sighting.span
    return f"The {sighting.name} shows in frame {places}. It {sighting.motion or 'is there'}, from {start} to {end}. "


def sentences(known: Known) -> str:
    """The three steps and what they lead to."""
    interval, key = known.decision.interval, known.decision.key_frame
    span = f"from frame {interval.start} to frame {interval.end - 1}"
    seen = "".join(_sentence(each) for each in known.seen)
    if not known.matches:
        return (
            f"Step 1 (temporal): {seen}Nothing that fits the query shows up anywhere {span}. Step 2 (spatial): in "
            f"frame {key}, as in the others, there is no such object to mark. Step 3 (linguistic): nothing in the "
            f'video matches "{known.query}". Action: answer that it is absent.'
        )
    if not known.target:
        return (
            f"Step 1 (temporal): {seen}It is not clear yet which object is meant; what decides must show {span}. Step "
            f'2 (spatial): frame {key} has to be seen large. Step 3 (linguistic): "{known.query}" can\'t be matched '
            "to one object before that. Action: look closer."
        )
    where = f" on the {known.place}" if known.place else ""
    where = " in the center" if known.place == "center" else where
    act = "answer" if isinstance(known.decision, Answer) else "look closer to be sure"
    says = "can be seen" if isinstance(known.decision, Answer) else "should be looked at"
    return (
        f"Step 1 (temporal): {seen}The {known.target} {says} {span}. Step 2 (spatial): the {known.target} is"
        f"{where} best seen in frame {key}. Step 3 (linguistic): the {known.target} is what "
        f'"{known.query}" refers to. Action: {act}.'
    )
