"""Let a teacher model reword a trace: the words between the claims may change, the claims may not.

The teacher gets every step of every turn with its claims in guillemets, and returns the same steps in its own words.
Its text must make the same claims, turn by turn, and pass the validator. If it does not, the teacher gets the faults
and tries again. After `ATTEMPTS` the trace keeps its original wording.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from configs.schema import EnvConfig
from cot_data.formats.vts_cot import Message, Record
from cot_data.traces.candidates import Scene
from cot_data.traces.claims import Claim
from cot_data.traces.teacher import Teacher
from cot_data.traces.validate import find_faults, read_thinking
from env.json_text import parse_json

ATTEMPTS = 2
STEPS = ("temporal", "spatial", "linguistic", "action")
_HEADS = ("Step 1 (temporal): ", "Step 2 (spatial): ", "Step 3 (linguistic): ", "Action: ")
_TURN = re.compile(r"<think>(.*)</think>(.*)", re.DOTALL)
_SYSTEM = """\
You reword the reasoning of someone who watches a video and looks for the object that a query means. You get a JSON \
list with one object per turn, each with the keys "temporal", "spatial", "linguistic" and "action". Give back a list \
of the same shape and nothing else: the same reasoning in fluent, varied English, as a careful observer thinks aloud.
Every piece in «guillemets» is a fact that was checked. Keep each one, letter by letter, in its own entry, in order, \
and in its guillemets; before a fact about another object, keep that object's name. Add no fact of your own: no \
number, place, direction, size, order or negation. Words of that kind may stand in guillemets alone."""


@dataclass(frozen=True)
class Reworded:
    """A record and the origin of its wording."""

    record: Record
    words_by: str  # "teacher" or "template"
    faults: tuple[str, ...] = ()  # why the teacher's wording was rejected


def reword(record: Record, scene: Scene, config: EnvConfig, teacher: Teacher) -> Reworded:
    """Return the record in the teacher's words if they are valid, else as it is.

    Args:
        record: a valid trace in sentences.
        scene: its task, target and candidates.
        config: of the environment whose frames the trace refers to.
        teacher: the model to ask; a request that its cap does not allow is not sent.

    Returns:
        The record, the origin of its wording and the faults of a rejected one.

    Raises:
        DataError: the teacher's endpoint gives no reply.
    """
    query = f"Query: {json.dumps(record.exp)}\n{json.dumps(marked_turns(record, scene), ensure_ascii=False, indent=1)}"
    messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": query}]
    faults: list[str] = []
    for _ in range(ATTEMPTS):
        reply = teacher.ask(messages)
        if reply is None:
            return Reworded(record, "template", (*faults, "the cap on tokens is reached"))
        worded = with_wording(record, reply.text)
        faults = wording_faults(record, worded, scene, config) if isinstance(worded, Record) else [worded]
        if isinstance(worded, Record) and not faults:
            return Reworded(worded, "teacher")
        request = "That does not hold. Give the whole list again, mended:\n" + "\n".join(faults[:10])
        messages += [{"role": "assistant", "content": reply.text}, {"role": "user", "content": request}]
    return Reworded(record, "template", tuple(faults))


def marked_turns(record: Record, scene: Scene) -> list[dict[str, str]]:
    """Return the steps of each turn by name, with their claims in guillemets."""
    turns = []
    for text in record.gpt_turns:
        marked = _mark(_thinking(text), scene)
        parts = re.split("|".join(re.escape(head) for head in _HEADS), marked)[1:]
        turns.append({name: part.strip() for name, part in zip(STEPS, parts, strict=True)})
    return turns


def with_wording(record: Record, reply: str) -> Record | str:
    """Return the record with the steps of a teacher's reply, or what is wrong with a reply that has no such steps."""
    start, end = reply.find("["), reply.rfind("]")
    try:
        turns = parse_json(reply[start : end + 1])
    except ValueError as error:
        return f"expected a JSON list, found something else ({error})"
    olds = record.gpt_turns
    if not isinstance(turns, list) or len(turns) != len(olds):
        return f"expected a JSON list of {len(olds)} turns"
    texts = []
    for number, (turn, old) in enumerate(zip(turns, olds, strict=True)):
        if not isinstance(turn, dict) or not all(isinstance(turn.get(name), str) for name in STEPS):
            return f"turn {number}: expected the keys {', '.join(STEPS)}, each with a text"
        # No mark-up and no line breaks: the teacher may only write the thinking.
        steps = [re.sub(r"[«»<>\[\]\s]+", _plain, turn[name]).strip() for name in STEPS]
        thinking = " ".join(head + step for head, step in zip(_HEADS, steps, strict=True))
        match = _TURN.fullmatch(old)
        assert match is not None
        texts.append(f"<think>{thinking}</think>{match[2]}")
    return _with_turns(record, texts)


def wording_faults(old: Record, new: Record, scene: Scene, config: EnvConfig) -> list[str]:
    """Return the claims that a new wording lost or added, and the faults that the validator finds in it.

    Args:
        old: the trace before rewording.
        new: the trace after it, with as many turns.
        scene: the task, target and candidates of both.
        config: of the environment whose frames the trace refers to.

    Returns:
        Texts such as "turn 1: ..", none for a valid wording.
    """
    found = []
    for number, (was, now) in enumerate(zip(old.gpt_turns, new.gpt_turns, strict=True)):
        had = Counter(read_thinking(_thinking(was), scene).claims)
        has = Counter(read_thinking(_thinking(now), scene).claims)
        for word, claims in (("leaves out", had - has), ("adds", has - had)):
            found += [f"turn {number}: {word} {' '.join(filter(None, _words(claim)))}" for claim in claims]
    return found + find_faults(new, scene, config)


def _words(claim: Claim) -> list[str]:
    return [claim.kind, claim.subject, claim.value, claim.other, " ".join(map(str, claim.frames))]


def _plain(match: re.Match[str]) -> str:
    """One space for white space, nothing for guillemets and brackets."""
    return " " if any(char.isspace() for char in match[0]) else ""


def _thinking(turn: str) -> str:
    match = _TURN.fullmatch(turn)
    assert match is not None
    return match[1]


def _mark(thinking: str, scene: Scene) -> str:
    """The text with its claims in guillemets; overlapping claims are joined."""
    spans: list[tuple[int, int]] = []
    for start, end in read_thinking(thinking, scene).spans:
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    pieces, at = [], 0
    for start, end in spans:
        pieces += [thinking[at:start], "«", thinking[start:end], "»"]
        at = end
    return "".join([*pieces, thinking[at:]])


def _with_turns(record: Record, texts: Sequence[str]) -> Record:
    left = iter(texts)
    messages = tuple(
        Message("gpt", next(left)) if message.speaker == "gpt" else message for message in record.conversations
    )
    return replace(record, conversations=messages)
