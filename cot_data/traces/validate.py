"""Validate a trace in sentences: read every claim from its text and check it against the masks.

A trace must also run: its text parses, `cot_trace` holds the numbers of the text, each zoom shows a new frame or shows
one larger, and the answer follows from the frames shown. Text that could be a claim but cannot be read is a fault too,
because a trace is only known to be true if all of its statements can be checked.
"""

from __future__ import annotations

import re

from configs.schema import EnvConfig
from cot_data.formats.vts_cot import Record
from cot_data.traces.candidates import Scene
from cot_data.traces.claim_checks import CHECKS, ClaimContext
from cot_data.traces.claims import Claim, ReadClaims, read_claims
from cot_data.traces.dialogue import to_trajectory
from env.errors import DataError
from env.types import Answer, Select, Turn

_STEPS = ["Step 1 (temporal):", "Step 2 (spatial):", "Step 3 (linguistic):", "Action:"]
_THINKING = re.compile(r"<think>(.*)</think>", re.DOTALL)


def find_faults(record: Record, scene: Scene, config: EnvConfig) -> list[str]:
    """Return what is wrong with a trace.

    Args:
        record: the trace.
        scene: its task, target and candidates.
        config: of the environment whose frames the trace refers to.

    Returns:
        Texts such as "turn 1: ..", none for a valid trace.
    """
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
        repeated = [] if shown != before else ["shows nothing that was not shown before"]
        frames = tuple(sorted({frame_idx for frame_idx, _ in shown}))
        found += [f"turn {number}: {fault}" for fault in [*repeated, *_turn_faults(turn, scene, frames)]]
    return found


def _turn_faults(turn: Turn, scene: Scene, shown: tuple[int, ...]) -> list[str]:
    decision = turn.decision
    assert isinstance(decision, Select | Answer)
    thinking = _THINKING.search(turn.action.text)
    assert thinking is not None  # the action was parsed
    read = read_thinking(thinking[1], scene)
    found = _step_faults(thinking[1])
    found += [f"has {word!r} outside of every statement that masks can check" for word in read.unread_words]
    context = ClaimContext(scene, shown, decision)
    for claim in read.claims:
        fault = CHECKS[claim.kind](context, claim)
        if fault:
            found.append(f"{_claim_text(claim)}: {fault}")
    kinds = {claim.kind for claim in read.claims}
    if {"means", "undecided"} <= kinds:
        found.append("names the target and states that it is not known yet")
    action = "answer" if isinstance(decision, Answer) else "select"
    if action not in kinds:
        found.append(f"does not state the frames of its {action}")
    return found + (_answer_faults(context, kinds) if isinstance(decision, Answer) else [])


def read_thinking(thinking: str, scene: Scene) -> ReadClaims:
    """Return the claims of a turn's thinking about the candidates of the scene."""
    return read_claims(thinking, [candidate.name for candidate in scene.candidates])


def _step_faults(thinking: str) -> list[str]:
    found = re.findall(r"Step \d \(\w+\):|Action:", thinking)
    if found == _STEPS:
        return []
    return [f"expected {', '.join(_STEPS)} in this order, found {', '.join(found) or 'none'}"]


def _answer_faults(context: ClaimContext, kinds: set[str]) -> list[str]:
    """The answer names the target, spans the frames that show it, and marks one of them; or states there is none."""
    target, answer = context.scene.target, context.decision
    if target is None:
        return [] if "no_target" in kinds else ["does not state that nothing matches the query"]
    found = [] if "means" in kinds else ["does not name the target"]
    seen = target.visible_in(context.shown)
    if not seen:
        return [*found, "no frame that was shown shows the target"]
    if (answer.interval.start, answer.interval.end - 1) != (seen[0], seen[-1]):
        answered = f"{answer.interval.start} to {answer.interval.end - 1}"
        found.append(f"answers with frames {answered}, the frames shown have the target from {seen[0]} to {seen[-1]}")
    if answer.key_frame not in seen:
        found.append(f"marks frame {answer.key_frame}, which does not show the target or was not shown")
    return found


def _claim_text(claim: Claim) -> str:
    frames = f" in {', '.join(map(str, claim.frames))}" if claim.frames else ""
    return f"{claim.kind} {claim.value} {claim.subject}".replace("  ", " ").rstrip() + frames
