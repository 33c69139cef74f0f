"""Does a trace in sentences contradict the masks? Every statement is read from its text and judged anew.

Also that it plays: that its text parses, its numbers are those beside the text, each look shows something new, and the
answer follows from the frames shown. What looks like a statement and cannot be read counts as a fault: a trace whose
statements cannot be judged is not known to be true.
"""

from __future__ import annotations

import re

from configs.schema import EnvConfig
from cot_data.formats.vts_cot import Record
from cot_data.traces.candidates import Scene
from cot_data.traces.claim_checks import JUDGES, View
from cot_data.traces.claims import Claim, Reading, read_claims
from cot_data.traces.dialogue import to_trajectory
from env.errors import DataError
from env.types import Answer, Select, Turn

_STEPS = ["Step 1 (temporal):", "Step 2 (spatial):", "Step 3 (linguistic):", "Action:"]
_THINKING = re.compile(r"<think>(.*)</think>", re.DOTALL)


def faults_of(record: Record, scene: Scene, config: EnvConfig) -> list[str]:
    """What is wrong with a trace about the task of `scene`, as "turn 1: .."; empty where nothing is."""
    try:
        turns = to_trajectory(record, scene.task, config).turns
    except DataError as error:
        return [str(error)]
    found, shown = [], {}
    for number, turn in enumerate(turns):
        before = dict(shown)
        for frame in turn.observation.frames:
            view = (frame.frame_idx, frame.region)
            shown[view] = max(frame.width * frame.height, shown.get(view, 0))
        adds = [] if shown != before else ["shows nothing that was not shown before"]
        frames = tuple(sorted({frame_idx for frame_idx, _ in shown}))
        found += [f"turn {number}: {fault}" for fault in [*adds, *_turn_faults(turn, scene, frames)]]
    return found


def _turn_faults(turn: Turn, scene: Scene, shown: tuple[int, ...]) -> list[str]:
    decision = turn.decision
    assert isinstance(decision, Select | Answer)
    thinking = _THINKING.search(turn.action.text)
    assert thinking is not None  # it was parsed
    reading = reading_of(thinking[1], scene)
    found = _step_faults(thinking[1])
    found += [f"says {word!r} where it cannot be judged" for word in reading.loose_ends]
    view = View(scene, shown, decision)
    for claim in reading.claims:
        fault = JUDGES[claim.kind](view, claim)
        if fault:
            found.append(f"{_told(claim)}: {fault}")
    kinds = {claim.kind for claim in reading.claims}
    if {"means", "untold"} <= kinds:
        found.append("says whom the query means, and that it cannot be told yet")
    acts = "answer" if isinstance(decision, Answer) else "look"
    if acts not in kinds:
        found.append(f"does not say which frames it is to {acts} at, as its action does")
    return found + (_answer_faults(view, kinds) if isinstance(decision, Answer) else [])


def reading_of(thinking: str, scene: Scene) -> Reading:
    """The claims of a turn's thinking, with the names of the scene."""
    return read_claims(thinking, [thing.name for thing in scene.things])


def _step_faults(thinking: str) -> list[str]:
    found = re.findall(r"Step \d \(\w+\):|Action:", thinking)
    return (
        [] if found == _STEPS else [f"expected {', '.join(_STEPS)} in this order, found {', '.join(found) or 'none'}"]
    )


def _answer_faults(view: View, kinds: set[str]) -> list[str]:
    """The answer names the target, spans the frames that show it, and marks one of them; or says that there is none."""
    target, answer = view.scene.target, view.decision
    if target is None:
        return [] if "none" in kinds else ["does not say that nothing answers to the query"]
    found = [] if "means" in kinds else ["does not say whom the query means"]
    seen = target.seen_in(view.shown)
    if not seen:
        return [*found, "no frame that was shown shows the target"]
    if (answer.interval.start, answer.interval.end - 1) != (seen[0], seen[-1]):
        said = f"{answer.interval.start} to {answer.interval.end - 1}"
        found.append(f"answers with frames {said}, the frames shown have the target from {seen[0]} to {seen[-1]}")
    if answer.key_frame not in seen:
        found.append(f"marks frame {answer.key_frame}, which does not show the target or was not shown")
    return found


def _told(claim: Claim) -> str:
    frames = f" in {', '.join(map(str, claim.frames))}" if claim.frames else ""
    return f"{claim.kind} {claim.value} {claim.who}".replace("  ", " ").rstrip() + frames
