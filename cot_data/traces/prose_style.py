"""How the thinking of one turn reads in sentences: three decoupled steps, each of evidence that the frames show.

Step 1 (temporal) says when each candidate is seen, when the target comes and goes and how it moves; step 2 (spatial)
where and how large it is in the key frame and what lies beside it; step 3 (linguistic) weighs the words of the query
against the candidates. Every statement is a phrase of `cot_data.traces.claims`. `compact_style` beside this says the
same in few tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cot_data.traces.candidates import Scene, Thing
from cot_data.traces.claims import PLACE_PHRASES, UNTOLD, frame_list
from cot_data.traces.mask_evidence import (
    STILL_WORD,
    Change,
    Motion,
    center,
    changes,
    growth,
    is_cut,
    motion,
    percent,
    side,
    touches,
)
from cot_data.traces.query_evidence import be, joined, query_words, reasons
from cot_data.traces.visibility import see
from env.frames import sample_indices
from env.types import Answer, Interval, Select

OTHER_FRAMES = 4  # frames in which a candidate that is not the target is told of
MOST_CHANGES = 3  # comings and goings told of one by one; of more the first and the last
_LOOK_FOR = {
    "evidence": "to see what the query is about",
    "hidden": "to search what lies between them",
    "entry": "to find when its stay begins",
    "exit": "to find when its stay ends",
    "close": "to make sure of it",
    "absent": "to make sure that it differs",
}


@dataclass(frozen=True)
class Moment:
    """What is known in one turn."""

    scene: Scene
    shown: tuple[int, ...]  # all frames shown so far, in order
    new: tuple[int, ...]  # those that this turn's observation adds to them, in order
    decision: Select | Answer
    reason: str = ""  # of a select, as `select_turns.Look` has it
    is_first: bool = True
    is_told: bool = False  # a turn before has named the target

    @property
    def named(self) -> Thing | None:
        """The target, once it may be named: neither before its evidence is seen nor before it is in view itself."""
        target = self.scene.target
        return target if target and self.reason != "evidence" and target.seen_in(self.shown) else None


def think(moment: Moment) -> str:
    """The three steps of a turn and what they lead to."""
    steps = {"temporal": _temporal(moment), "spatial": _spatial(moment), "linguistic": _linguistic(moment)}
    told = [f"Step {i} ({name}): {' '.join(texts)}" for i, (name, texts) in enumerate(steps.items(), start=1)]
    return " ".join([*told, f"Action: {_action(moment)}"])


def _temporal(moment: Moment) -> list[str]:
    """Who is seen when; of the target also its coming and going, and its motion."""
    named, found = moment.named, []
    for thing in moment.scene.things:
        if not named and not moment.scene.others and thing is moment.scene.target:
            continue  # the only name would tell who is meant
        frames = thing.seen_in(moment.new)
        if thing is not named:
            frames = _some(frames, OTHER_FRAMES if moment.is_first else 1)
        if frames:
            found.append(f"The {thing.name} {be(thing)} {_places(thing, frames)}.")
        if thing is named:
            found += _course(moment, thing, has_subject=bool(frames))
    if moment.scene.target and not moment.scene.target.seen_in(moment.shown):
        found.append("What the query asks for is in none of the frames shown so far.")
    if not moment.scene.things:
        found.append("Nothing here answers to the query.")
    return found or ["What decides has yet to be seen."]


def _course(moment: Moment, thing: Thing, has_subject: bool) -> list[str]:
    """Sentences on a thing's absence, its coming and going, and its motion, as far as this turn's frames add to it."""
    seen, told = thing.seen_in(moment.shown), []
    missing = [t for t in moment.new if t not in seen]
    if missing and not moment.is_first:
        told.append(f"{be(thing)} not in {frame_list(missing)}")
    new = set(moment.new)
    turns = [each for each in changes(set(seen), moment.shown) if each.before in new or each.after in new]
    turns = turns if len(turns) <= MOST_CHANGES else [turns[0], turns[-1]]
    if turns:
        told.append(joined([_change(thing, each) for each in turns]))
    told += [_way(thing, each) for each in motion(thing.masks, seen) if not moment.is_told]
    size = growth(thing.masks, seen[0], seen[-1])
    if size and not moment.is_told:
        told.append(f"{be(thing)} {size} in frame {seen[-1]} than in frame {seen[0]}")
    subjects = [_it(thing) if has_subject else f"The {thing.name}", *[_it(thing)] * len(told)]
    return [f"{subject} {text}." for subject, text in zip(subjects, told, strict=False)]


def _change(thing: Thing, change: Change) -> str:
    verb = f"{_verb(thing, 'come')} into" if change.is_entry else f"{_verb(thing, 'go')} out of"
    return f"{verb} view between frames {change.before} and {change.after}"


def _way(thing: Thing, seen: Motion) -> str:
    verb = be(thing) if seen.way == STILL_WORD else _verb(thing, "move")
    return f"{verb} {seen.way} from frame {seen.first} to frame {seen.last}"


def _spatial(moment: Moment) -> list[str]:
    """Where the target is in the key frame, how large and beside what."""
    named, key = moment.named, moment.decision.key_frame
    if moment.scene.target is None:
        is_last = isinstance(moment.decision, Answer)
        return ["So there is only background to mark." if is_last else "What comes nearest has to be seen large."]
    if named is None or key not in named.seen_in(moment.shown):
        return ["Where it is has yet to be seen."]
    place = PLACE_PHRASES[see(named.masks, (key,), named.least)[key].place]
    told = f"{place} there and {_verb(named, 'take')} up {percent(named.masks, key)} % of the frame"
    if is_cut(named.masks, key):
        told += ", cut by the border there"
    if isinstance(moment.decision, Select):
        at = f"The {named.name} {be(named)} {told}.".replace(" there", f" in frame {key}", 1)
        return [at, *_neighbours(moment, named, key)]
    seen = named.seen_in(moment.shown)
    pronoun = "them" if named.parsed.is_plural else "it"
    span = f"from frame {seen[0]} to frame {seen[-1]}" if len(seen) > 1 else f"in frame {seen[0]} alone"
    return [
        f"The {named.name} {be(named)} visible {span}.",
        f"Frame {key} shows {pronoun} best: {_it(named).lower()} {be(named)} {told}.",
        *_neighbours(moment, named, key),
    ]


def _neighbours(moment: Moment, named: Thing, key: int) -> list[str]:
    """The nearest other candidate in the key frame, which was said last."""
    beside = [thing for thing in moment.scene.others if thing.seen_in((key,))]
    if not beside:
        return []
    x, y = center(named.masks, key)
    nearest = min(beside, key=lambda thing: abs(center(thing.masks, key)[0] - x) + abs(center(thing.masks, key)[1] - y))
    where, is_near = side(named.masks, nearest.masks, key), touches(named.masks, nearest.masks, key)
    if where:
        return [f"{_it(named)} {be(named)} {where} the {nearest.name} there{' and touching it' if is_near else ''}."]
    return [f"{_it(named)} {be(named)} touching the {nearest.name} there."] if is_near else []


def _linguistic(moment: Moment) -> list[str]:
    """What the query asks for, and whom it means."""
    scene, named, others = moment.scene, moment.named, [f"the {other.name}" for other in moment.scene.others]
    told = [query_words(scene)] if not moment.is_told else []
    if named:
        weighed = reasons(scene, named, moment.shown) if not moment.is_told else []
        against = f", not {joined(others, 'or')}" if others else ""
        lead = "That holds: the query" if moment.is_told else "So the query"
        return [*told, *weighed, f"{lead} means the {named.name}{against}."]
    if scene.target or isinstance(moment.decision, Select):
        count = len(scene.things)
        which = f"Which of the {count} candidates is meant" if count > 1 and scene.target else "What is meant"
        return [*told, f"{which} {UNTOLD}."]
    against = f"That is not {joined(others, 'or')}: " if others else "So "
    return [*told, f"{against}nothing here answers to the query."]


def _action(moment: Moment) -> str:
    interval, key = moment.decision.interval, moment.decision.key_frame
    span = f"frames {interval.start} to {interval.end - 1}"
    if isinstance(moment.decision, Answer):
        return f"answer with {span}, key frame {key}."
    return f"look closer at {span}, with frame {key} large, {_LOOK_FOR[moment.reason]}."


def _places(thing: Thing, frames: Sequence[int]) -> str:
    """ "on the left in frames 0 and 7, in the center in frame 15": one place after the other."""
    runs: list[tuple[str, list[int]]] = []
    for t, sight in see(thing.masks, frames, thing.least).items():
        if runs and runs[-1][0] == sight.place:
            runs[-1][1].append(t)
        else:
            runs.append((sight.place, [t]))
    return ", ".join(f"{PLACE_PHRASES[place]} in {frame_list(run)}" for place, run in runs)


def _some(frames: Sequence[int], count: int) -> list[int]:
    """At most `count` of the frames, evenly spread."""
    return [frames[at] for at in sample_indices(Interval(0, len(frames)), count)] if frames else []


def _it(thing: Thing) -> str:
    return "They" if thing.parsed.is_plural else "It"


def _verb(thing: Thing, verb: str) -> str:
    """ "moves", "move", "goes": the verb as its subject wants it."""
    return verb if thing.parsed.is_plural else f"{verb}es" if verb == "go" else f"{verb}s"
