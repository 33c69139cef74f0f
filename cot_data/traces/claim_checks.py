"""Whether one statement of a trace is true by the masks: a judge for each kind of `cot_data.traces.claims`.

A judge gives the fault, or "" where there is none. Nothing may be said of a frame that was not shown yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cot_data.traces import mask_evidence as evidence
from cot_data.traces.candidates import Scene, Thing, quotable, same_kind
from cot_data.traces.claims import Claim
from cot_data.traces.query_evidence import comes_first, is_farthest
from cot_data.traces.visibility import NEARLY, see
from env.types import Answer, Select

PERCENT_OFF = 1  # what a share of the frame may be off by


@dataclass(frozen=True)
class View:
    """What a claim is judged by."""

    scene: Scene
    shown: tuple[int, ...]  # all frames shown until then, in order
    decision: Select | Answer

    def thing(self, name: str) -> Thing | None:
        return next((thing for thing in self.scene.things if thing.name == name), None)


def _unshown(view: View, claim: Claim) -> str:
    hidden = [t for t in claim.frames if t not in view.shown]
    return f"frame {hidden[0]} was not shown" if hidden else ""


def _seen(view: View, claim: Claim) -> str:
    """A fault of a claim whose subject has to be seen in all of its frames."""
    unshown = _unshown(view, claim)  # first: a frame that is not shown need not exist
    if unshown:
        return unshown
    thing = view.thing(claim.who)
    if thing is None:
        return "it is said of nothing that has a name"
    absent = [t for t in claim.frames if t not in thing.seen_in(claim.frames)]
    return f"it is not in frame {absent[0]}" if absent else ""


def _of_seen(judge: Callable[[View, Claim, Thing], str]) -> Callable[[View, Claim], str]:
    """A judge of claims whose subject has to be seen in all of its frames."""
    return lambda view, claim: _seen(view, claim) or judge(view, claim, _thing(view, claim))


def _thing(view: View, claim: Claim) -> Thing:
    thing = view.thing(claim.who)
    assert thing is not None
    return thing


def _at(view: View, claim: Claim, thing: Thing) -> str:
    sights = see(thing.masks, claim.frames, thing.least)
    wrong = [f"in frame {t} it is {sight.place!r}" for t, sight in sights.items() if sight.place != claim.value]
    return wrong[0] if wrong else ""


def _absent(view: View, claim: Claim) -> str:
    thing, unshown = view.thing(claim.who), _unshown(view, claim)
    if thing is None or unshown:
        return unshown or "it is said of nothing that has a name"
    seen = thing.seen_in(claim.frames)
    return f"it is in frame {seen[0]}" if seen else ""


def _change(view: View, claim: Claim) -> str:
    thing, unshown = view.thing(claim.who), _unshown(view, claim)
    if thing is None or unshown:
        return unshown or "it is said of nothing that has a name"
    change = evidence.Change(claim.kind == "entry", *claim.frames)
    is_true = change in evidence.changes(set(thing.seen_in(view.shown)), view.shown)
    return "" if is_true else "the frames shown have no such change"


def _motion(view: View, claim: Claim, thing: Thing) -> str:
    seen = thing.seen_in(view.shown)
    found = evidence.motion(thing.masks, seen)
    if evidence.Motion(claim.value, *claim.frames) in found:
        return ""
    return f"it moves {', '.join(f'{m.way} from {m.first} to {m.last}' for m in found) or 'no one way'}"


def _growth(view: View, claim: Claim, thing: Thing) -> str:
    late, early = claim.frames
    found = evidence.growth(thing.masks, early, late)
    return "" if found == claim.value else f"it is {found or 'of much the same size'}"


def _size(view: View, claim: Claim, thing: Thing) -> str:
    found = evidence.percent(thing.masks, claim.frames[0])
    return "" if abs(found - int(claim.value)) <= PERCENT_OFF else f"it takes up {found} %"


def _cut(view: View, claim: Claim, thing: Thing) -> str:
    return "" if evidence.is_cut(thing.masks, claim.frames[0]) else "it does not reach the border"


def _side(view: View, claim: Claim, thing: Thing) -> str:
    other, frame_idx = view.thing(claim.other), claim.frames[0]
    if other is None or not other.seen_in((frame_idx,)):
        return f"the {claim.other} is not in frame {frame_idx}"
    found = evidence.side(thing.masks, other.masks, frame_idx)
    return "" if found == claim.value else f"it is {found or 'at the same place as'} the {claim.other}"


def _touch(view: View, claim: Claim, thing: Thing) -> str:
    other, frame_idx = view.thing(claim.other), claim.frames[0]
    if other is None or not other.seen_in((frame_idx,)):
        return f"the {claim.other} is not in frame {frame_idx}"
    return "" if evidence.touches(thing.masks, other.masks, frame_idx) else "they are apart"


def _best(view: View, claim: Claim, thing: Thing) -> str:
    """Nearly as large as in any frame shown, and whole if any such frame has it whole."""
    sights = see(thing.masks, view.shown, thing.least)
    whole = {t: sight for t, sight in sights.items() if not sight.is_cut} or sights
    own, best = claim.frames[0], max(whole, key=lambda t: whole[t].area)
    return "" if own in whole and whole[own].area >= NEARLY * whole[best].area else f"frame {best} shows it better"


def _span(view: View, claim: Claim, thing: Thing) -> str:
    seen = thing.seen_in(view.shown)
    return "" if {*claim.frames} == {seen[0], seen[-1]} else f"it is seen from frame {seen[0]} to frame {seen[-1]}"


def _farthest(view: View, claim: Claim, thing: Thing) -> str:
    is_true = is_farthest(thing, view.scene.things, claim.value, claim.frames[0])
    return "" if is_true else "another one is farther"


def _order(view: View, claim: Claim, thing: Thing) -> str:
    rest = [other for other in view.scene.things if other is not thing]
    is_entry, is_first = claim.value.startswith("into"), "before" in claim.value
    return "" if comes_first(thing, rest, view.shown, is_entry, is_first) else "the frames shown have another order"


def _as_said(view: View, claim: Claim, thing: Thing) -> str:
    if thing is not view.scene.target:
        return "it is not the target"
    off = [t for t in claim.frames if t not in view.scene.task.evidence]
    return f"the evidence is not in frame {off[0]}" if off else ""


def _kind(view: View, claim: Claim, thing: Thing) -> str:
    target = view.scene.target
    return "" if target and same_kind(thing, target) else "it is called otherwise"


def _means(view: View, claim: Claim, thing: Thing) -> str:
    return "" if thing is view.scene.target else "the masks are those of another object"


def _rules_out(view: View, claim: Claim, thing: Thing) -> str:
    return "it is the target" if thing is view.scene.target else ""


def _none(view: View, claim: Claim) -> str:
    target = view.scene.target
    return f"the masks have it, as the {target.name}" if target else ""


def _unseen(view: View, claim: Claim) -> str:
    target = view.scene.target
    seen = target.seen_in(view.shown) if target else []
    return f"it is in frame {seen[0]}" if seen else "" if target else "nothing answers to the query"


def _untold(view: View, claim: Claim) -> str:
    return "" if isinstance(view.decision, Select) else "it is an answer"


def _action(view: View, claim: Claim) -> str:
    interval, is_answer = view.decision.interval, isinstance(view.decision, Answer)
    numbers = (interval.start, interval.end - 1, view.decision.key_frame)
    if is_answer != (claim.kind == "answer") or claim.frames != numbers:
        return f"the action is {'answer' if is_answer else 'look'} {numbers}"
    return ""


def _count(view: View, claim: Claim) -> str:
    found = len(view.scene.things)
    return "" if int(claim.value) == found else f"there are {found}"


def _quote(view: View, claim: Claim) -> str:
    return "" if claim.value in quotable(view.scene.task.expression) else "the query does not say so"


JUDGES: dict[str, Callable[[View, Claim], str]] = {
    "at": _of_seen(_at),
    "absent": _absent,
    "entry": _change,
    "exit": _change,
    "motion": _of_seen(_motion),
    "growth": _of_seen(_growth),
    "size": _of_seen(_size),
    "cut": _of_seen(_cut),
    "side": _of_seen(_side),
    "touch": _of_seen(_touch),
    "best": _of_seen(_best),
    "span": _of_seen(_span),
    "farthest": _of_seen(_farthest),
    "order": _of_seen(_order),
    "as_said": _of_seen(_as_said),
    "kind": _of_seen(_kind),
    "means": _of_seen(_means),
    "rules_out": _of_seen(_rules_out),
    "none": _none,
    "unseen": _unseen,
    "untold": _untold,
    "look": _action,
    "answer": _action,
    "count": _count,
    "quote": _quote,
}
