"""Check one claim of a trace against the masks: `CHECKS` has a function for each kind of `cot_data.traces.claims`.

A check returns what is wrong, or "" for a true claim. A claim about a frame that was not shown yet is always wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cot_data.traces import mask_evidence as evidence
from cot_data.traces.candidates import Candidate, Scene, quotable, same_kind
from cot_data.traces.claims import Claim
from cot_data.traces.query_evidence import comes_first, is_farthest
from cot_data.traces.visibility import NEARLY_LARGEST, object_views
from env.types import Answer, Select

MAX_PERCENT_ERROR = 1  # of a stated size, in percent of the frame
_NO_SUBJECT = "it has no candidate as its subject"


@dataclass(frozen=True)
class ClaimContext:
    """The turn that makes a claim."""

    scene: Scene
    shown: tuple[int, ...]  # all frames shown up to this turn, in order
    decision: Select | Answer

    def candidate(self, name: str) -> Candidate | None:
        """Return the candidate of that name, or None."""
        return next((candidate for candidate in self.scene.candidates if candidate.name == name), None)


Check = Callable[[ClaimContext, Claim], str]
SubjectCheck = Callable[[ClaimContext, Claim, Candidate], str]


def _not_shown(context: ClaimContext, claim: Claim) -> str:
    hidden = [t for t in claim.frames if t not in context.shown]
    return f"frame {hidden[0]} was not shown" if hidden else ""


def _with_subject(check: SubjectCheck) -> Check:
    """A check of claims that need a candidate as subject and may only be about shown frames."""

    def checked(context: ClaimContext, claim: Claim) -> str:
        subject = context.candidate(claim.subject)
        fault = _not_shown(context, claim)  # first: a frame that was not shown may not exist
        if fault or subject is None:
            return fault or _NO_SUBJECT
        return check(context, claim, subject)

    return checked


def _with_visible_subject(check: SubjectCheck) -> Check:
    """A check of claims whose subject must be visible in all of their frames."""

    def checked(context: ClaimContext, claim: Claim, subject: Candidate) -> str:
        absent = [t for t in claim.frames if t not in subject.visible_in(claim.frames)]
        return f"it is not in frame {absent[0]}" if absent else check(context, claim, subject)

    return _with_subject(checked)


def _place(context: ClaimContext, claim: Claim, subject: Candidate) -> str:
    views = object_views(subject.masks, claim.frames, subject.min_area)
    wrong = [f"in frame {t} it is {view.place!r}" for t, view in views.items() if view.place != claim.value]
    return wrong[0] if wrong else ""


def _absent(context: ClaimContext, claim: Claim, subject: Candidate) -> str:
    seen = subject.visible_in(claim.frames)
    return f"it is in frame {seen[0]}" if seen else ""


def _change(context: ClaimContext, claim: Claim, subject: Candidate) -> str:
    change = evidence.Change(claim.kind == "entry", *claim.frames)
    is_true = change in evidence.changes(set(subject.visible_in(context.shown)), context.shown)
    return "" if is_true else "the frames shown have no such change"


def _motion(context: ClaimContext, claim: Claim, subject: Candidate) -> str:
    found = evidence.motions(subject.masks, subject.visible_in(context.shown))
    if evidence.Motion(claim.value, *claim.frames) in found:
        return ""
    return f"it moves {', '.join(f'{m.direction} from {m.first} to {m.last}' for m in found) or 'in no one direction'}"


def _growth(context: ClaimContext, claim: Claim, subject: Candidate) -> str:
    late, early = claim.frames
    found = evidence.growth(subject.masks, early, late)
    return "" if found == claim.value else f"it is {found or 'of much the same size'}"


def _size(context: ClaimContext, claim: Claim, subject: Candidate) -> str:
    found = evidence.percent(subject.masks, claim.frames[0])
    return "" if abs(found - int(claim.value)) <= MAX_PERCENT_ERROR else f"it takes up {found} %"


def _cut(context: ClaimContext, claim: Claim, subject: Candidate) -> str:
    return "" if evidence.is_cut(subject.masks, claim.frames[0]) else "it does not reach the border"


def _side(context: ClaimContext, claim: Claim, subject: Candidate) -> str:
    other, frame_idx = context.candidate(claim.other), claim.frames[0]
    if other is None or not other.visible_in((frame_idx,)):
        return f"the {claim.other} is not in frame {frame_idx}"
    found = evidence.side(subject.masks, other.masks, frame_idx)
    return "" if found == claim.value else f"it is {found or 'at the same place as'} the {claim.other}"


def _touch(context: ClaimContext, claim: Claim, subject: Candidate) -> str:
    other, frame_idx = context.candidate(claim.other), claim.frames[0]
    if other is None or not other.visible_in((frame_idx,)):
        return f"the {claim.other} is not in frame {frame_idx}"
    return "" if evidence.touches(subject.masks, other.masks, frame_idx) else "they are apart"


def _best(context: ClaimContext, claim: Claim, subject: Candidate) -> str:
    """The frame must be nearly the largest of those shown, and whole if the object is whole in any of them."""
    views = object_views(subject.masks, context.shown, subject.min_area)
    whole = {t: view for t, view in views.items() if not view.is_cut} or views
    own, best = claim.frames[0], max(whole, key=lambda t: whole[t].area)
    is_true = own in whole and whole[own].area >= NEARLY_LARGEST * whole[best].area
    return "" if is_true else f"frame {best} shows it better"


def _span(context: ClaimContext, claim: Claim, subject: Candidate) -> str:
    seen = subject.visible_in(context.shown)
    return "" if {*claim.frames} == {seen[0], seen[-1]} else f"it is visible from frame {seen[0]} to frame {seen[-1]}"


def _farthest(context: ClaimContext, claim: Claim, subject: Candidate) -> str:
    is_true = is_farthest(subject, context.scene.candidates, claim.value, claim.frames[0])
    return "" if is_true else "another one is farther"


def _order(context: ClaimContext, claim: Claim, subject: Candidate) -> str:
    rest = [other for other in context.scene.candidates if other is not subject]
    is_entry, is_first = claim.value.startswith("into"), "before" in claim.value
    is_true = comes_first(subject, rest, context.shown, is_entry, is_first)
    return "" if is_true else "the frames shown have another order"


def _evidence(context: ClaimContext, claim: Claim, subject: Candidate) -> str:
    if subject is not context.scene.target:
        return "it is not the target"
    wrong = [t for t in claim.frames if t not in context.scene.task.evidence]
    return f"the evidence is not in frame {wrong[0]}" if wrong else ""


def _same_kind(context: ClaimContext, claim: Claim, subject: Candidate) -> str:
    target = context.scene.target
    return "" if target and same_kind(subject, target) else "its noun is another one than the target's"


def _means(context: ClaimContext, claim: Claim, subject: Candidate) -> str:
    return "" if subject is context.scene.target else "the masks are those of another object"


def _rules_out(context: ClaimContext, claim: Claim, subject: Candidate) -> str:
    return "it is the target" if subject is context.scene.target else ""


def _no_target(context: ClaimContext, claim: Claim) -> str:
    target = context.scene.target
    return f"by the masks, the {target.name} matches the query" if target else ""


def _unseen(context: ClaimContext, claim: Claim) -> str:
    target = context.scene.target
    seen = target.visible_in(context.shown) if target else []
    return f"it is in frame {seen[0]}" if seen else "" if target else "nothing matches the query"


def _undecided(context: ClaimContext, claim: Claim) -> str:
    return "" if isinstance(context.decision, Select) else "the turn is an answer"


def _action(context: ClaimContext, claim: Claim) -> str:
    interval, is_answer = context.decision.interval, isinstance(context.decision, Answer)
    numbers = (interval.start, interval.end - 1, context.decision.key_frame)
    if is_answer != (claim.kind == "answer") or claim.frames != numbers:
        return f"the action is {'answer' if is_answer else 'select'} {numbers}"
    return ""


def _count(context: ClaimContext, claim: Claim) -> str:
    found = len(context.scene.candidates)
    return "" if int(claim.value) == found else f"there are {found}"


def _quote(context: ClaimContext, claim: Claim) -> str:
    return "" if claim.value in quotable(context.scene.task.expression) else "the query has no such words"


CHECKS: dict[str, Check] = {
    "place": _with_visible_subject(_place),
    "absent": _with_subject(_absent),
    "entry": _with_subject(_change),
    "exit": _with_subject(_change),
    "motion": _with_visible_subject(_motion),
    "growth": _with_visible_subject(_growth),
    "size": _with_visible_subject(_size),
    "cut": _with_visible_subject(_cut),
    "side": _with_visible_subject(_side),
    "touch": _with_visible_subject(_touch),
    "best": _with_visible_subject(_best),
    "span": _with_visible_subject(_span),
    "farthest": _with_visible_subject(_farthest),
    "order": _with_visible_subject(_order),
    "evidence": _with_visible_subject(_evidence),
    "same_kind": _with_visible_subject(_same_kind),
    "means": _with_visible_subject(_means),
    "rules_out": _with_visible_subject(_rules_out),
    "no_target": _no_target,
    "unseen": _unseen,
    "undecided": _undecided,
    "select": _action,
    "answer": _action,
    "count": _count,
    "quote": _quote,
}
