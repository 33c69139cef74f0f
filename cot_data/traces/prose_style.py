"""Write the thinking of one turn in sentences: three separate steps, each with evidence from the frames shown.

Step 1 (temporal) states when each candidate is visible, and when the target comes into view, goes out of it and how it
moves. Step 2 (spatial) states where and how large the target is in the key frame, and what is beside it. Step 3
(linguistic) compares the words of the query with the candidates. Every statement is a phrase of
`cot_data.traces.claims`. `compact_style` writes the same in few tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cot_data.traces.candidates import Candidate, Scene
from cot_data.traces.claims import PLACE_PHRASES, UNDECIDED, frame_list
from cot_data.traces.mask_evidence import (
    STILL_WORD,
    Change,
    Motion,
    center,
    changes,
    growth,
    is_cut,
    motions,
    percent,
    side,
    touches,
)
from cot_data.traces.query_evidence import be_verb, join_words, query_words, reasons
from cot_data.traces.visibility import object_views
from env.frames import sample_indices
from env.types import Answer, Interval, Select

MAX_OTHER_FRAMES = 4  # frames listed of a candidate that is not the target
MAX_CHANGES = 3  # changes listed one by one; of more, the first and the last
_PURPOSES = {
    "evidence": "to see what the query is about",
    "hidden": "to search what lies between them",
    "entry": "to find when its stay begins",
    "exit": "to find when its stay ends",
    "close": "to make sure of it",
    "absent": "to make sure that it differs",
}


@dataclass(frozen=True)
class TurnState:
    """What is known in one turn, and its decision."""

    scene: Scene
    shown: tuple[int, ...]  # all frames shown so far, in order
    new: tuple[int, ...]  # those that this turn's observation adds, in order
    decision: Select | Answer
    reason: str = ""  # of a select, as in `plan.PlannedZoom`
    is_first: bool = True
    was_named: bool = False  # an earlier turn named the target

    @property
    def known_target(self) -> Candidate | None:
        """The target, once it may be named: after its evidence was shown, and while a shown frame shows it."""
        target = self.scene.target
        return target if target and self.reason != "evidence" and target.visible_in(self.shown) else None


def write_thinking(turn: TurnState) -> str:
    """Return the three steps of a turn and its action, as text."""
    steps = {"temporal": _temporal(turn), "spatial": _spatial(turn), "linguistic": _linguistic(turn)}
    texts = [f"Step {i} ({name}): {' '.join(sentences)}" for i, (name, sentences) in enumerate(steps.items(), start=1)]
    return " ".join([*texts, f"Action: {_action(turn)}"])


def _temporal(turn: TurnState) -> list[str]:
    """When each candidate is visible; for the target also its changes and its motion."""
    target, sentences = turn.known_target, []
    for candidate in turn.scene.candidates:
        if not target and not turn.scene.others and candidate is turn.scene.target:
            continue  # the only name would reveal the target
        frames = candidate.visible_in(turn.new)
        if candidate is not target:
            frames = _spread(frames, MAX_OTHER_FRAMES if turn.is_first else 1)
        if frames:
            sentences.append(f"The {candidate.name} {be_verb(candidate)} {_places(candidate, frames)}.")
        if candidate is target:
            sentences += _presence_and_motion(turn, candidate, has_subject=bool(frames))
    if turn.scene.target and not turn.scene.target.visible_in(turn.shown):
        sentences.append("What the query asks for is in none of the frames shown so far.")
    if not turn.scene.candidates:
        sentences.append("Nothing here answers to the query.")
    return sentences or ["What decides has yet to be seen."]


def _presence_and_motion(turn: TurnState, target: Candidate, has_subject: bool) -> list[str]:
    """Sentences on the target's absence, changes, motion and growth, as far as this turn's frames add to them."""
    seen, phrases = target.visible_in(turn.shown), []
    missing = [t for t in turn.new if t not in seen]
    if missing and not turn.is_first:
        phrases.append(f"{be_verb(target)} not in {frame_list(missing)}")
    new = set(turn.new)
    found = [each for each in changes(set(seen), turn.shown) if each.before in new or each.after in new]
    found = found if len(found) <= MAX_CHANGES else [found[0], found[-1]]
    if found:
        phrases.append(join_words([_change(target, each) for each in found]))
    phrases += [_motion(target, each) for each in motions(target.masks, seen) if not turn.was_named]
    size = growth(target.masks, seen[0], seen[-1])
    if size and not turn.was_named:
        phrases.append(f"{be_verb(target)} {size} in frame {seen[-1]} than in frame {seen[0]}")
    subjects = [_pronoun(target) if has_subject else f"The {target.name}", *[_pronoun(target)] * len(phrases)]
    return [f"{subject} {phrase}." for subject, phrase in zip(subjects, phrases, strict=False)]


def _change(target: Candidate, change: Change) -> str:
    verb = f"{_verb(target, 'come')} into" if change.is_entry else f"{_verb(target, 'go')} out of"
    return f"{verb} view between frames {change.before} and {change.after}"


def _motion(target: Candidate, seen: Motion) -> str:
    verb = be_verb(target) if seen.direction == STILL_WORD else _verb(target, "move")
    return f"{verb} {seen.direction} from frame {seen.first} to frame {seen.last}"


def _spatial(turn: TurnState) -> list[str]:
    """Where and how large the target is in the key frame, and what is beside it."""
    target, key = turn.known_target, turn.decision.key_frame
    if turn.scene.target is None:
        is_last = isinstance(turn.decision, Answer)
        return ["So there is only background to mark." if is_last else "What comes nearest has to be seen large."]
    if target is None or key not in target.visible_in(turn.shown):
        return ["Where it is has yet to be seen."]
    place = PLACE_PHRASES[object_views(target.masks, (key,), target.min_area)[key].place]
    phrase = f"{place} there and {_verb(target, 'take')} up {percent(target.masks, key)} % of the frame"
    if is_cut(target.masks, key):
        phrase += ", cut by the border there"
    if isinstance(turn.decision, Select):
        at = f"The {target.name} {be_verb(target)} {phrase}.".replace(" there", f" in frame {key}", 1)
        return [at, *_neighbour(turn, target, key)]
    seen = target.visible_in(turn.shown)
    pronoun = "them" if target.parsed.is_plural else "it"
    span = f"from frame {seen[0]} to frame {seen[-1]}" if len(seen) > 1 else f"in frame {seen[0]} alone"
    return [
        f"The {target.name} {be_verb(target)} visible {span}.",
        f"Frame {key} shows {pronoun} best: {_pronoun(target).lower()} {be_verb(target)} {phrase}.",
        *_neighbour(turn, target, key),
    ]


def _neighbour(turn: TurnState, target: Candidate, key: int) -> list[str]:
    """The nearest other candidate in the key frame, which the sentence before mentioned."""
    beside = [candidate for candidate in turn.scene.others if candidate.visible_in((key,))]
    if not beside:
        return []
    x, y = center(target.masks, key)
    nearest = min(beside, key=lambda each: abs(center(each.masks, key)[0] - x) + abs(center(each.masks, key)[1] - y))
    where, is_near = side(target.masks, nearest.masks, key), touches(target.masks, nearest.masks, key)
    subject = f"{_pronoun(target)} {be_verb(target)}"
    if where:
        return [f"{subject} {where} the {nearest.name} there{' and touching it' if is_near else ''}."]
    return [f"{subject} touching the {nearest.name} there."] if is_near else []


def _linguistic(turn: TurnState) -> list[str]:
    """What the query asks for, and which candidate it means."""
    scene, target, others = turn.scene, turn.known_target, [f"the {other.name}" for other in turn.scene.others]
    sentences = [query_words(scene)] if not turn.was_named else []
    if target:
        confirmed = reasons(scene, target, turn.shown) if not turn.was_named else []
        against = f", not {join_words(others, 'or')}" if others else ""
        lead = "That holds: the query" if turn.was_named else "So the query"
        return [*sentences, *confirmed, f"{lead} means the {target.name}{against}."]
    if scene.target or isinstance(turn.decision, Select):
        count = len(scene.candidates)
        which = f"Which of the {count} candidates is meant" if count > 1 and scene.target else "What is meant"
        return [*sentences, f"{which} {UNDECIDED}."]
    against = f"That is not {join_words(others, 'or')}: " if others else "So "
    return [*sentences, f"{against}nothing here answers to the query."]


def _action(turn: TurnState) -> str:
    interval, key = turn.decision.interval, turn.decision.key_frame
    span = f"frames {interval.start} to {interval.end - 1}"
    if isinstance(turn.decision, Answer):
        return f"answer with {span}, key frame {key}."
    return f"look closer at {span}, with frame {key} large, {_PURPOSES[turn.reason]}."


def _places(candidate: Candidate, frames: Sequence[int]) -> str:
    """ "on the left in frames 0 and 7, in the center in frame 15": one place after the other."""
    runs: list[tuple[str, list[int]]] = []
    for t, view in object_views(candidate.masks, frames, candidate.min_area).items():
        if runs and runs[-1][0] == view.place:
            runs[-1][1].append(t)
        else:
            runs.append((view.place, [t]))
    return ", ".join(f"{PLACE_PHRASES[place]} in {frame_list(run)}" for place, run in runs)


def _spread(frames: Sequence[int], count: int) -> list[int]:
    """At most `count` of the frames, evenly spread."""
    return [frames[at] for at in sample_indices(Interval(0, len(frames)), count)] if frames else []


def _pronoun(candidate: Candidate) -> str:
    return "They" if candidate.parsed.is_plural else "It"


def _verb(candidate: Candidate, verb: str) -> str:
    """ "moves", "move" or "goes": the verb inflected for its subject."""
    return verb if candidate.parsed.is_plural else f"{verb}es" if verb == "go" else f"{verb}s"
