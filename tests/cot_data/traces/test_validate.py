"""The validator: a true trace is valid, and each planted contradiction is found."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from cot_data.formats.vts_cot import Message, Record
from cot_data.traces.candidates import Scene, build_scene
from cot_data.traces.claim_checks import CHECKS
from cot_data.traces.claims import PATTERNS, Claim, read_claims
from cot_data.traces.validate import find_faults
from cot_data.traces.write import prose_turns, to_record
from tests.helpers.cot_parts import FRAMES, HAND, boxes, dog_and_woman, hand_task


def traced(scene: Scene, seed: int = 3) -> Record:
    return to_record(scene.task, HAND, prose_turns(scene, HAND, np.random.default_rng(seed)))


def edited(record: Record, old: str, new: str) -> Record:
    """The record with a piece of one turn replaced, which must exist."""
    messages, done = [], False
    for message in record.conversations:
        if message.speaker == "gpt" and old in message.value and not done:
            message, done = Message("gpt", message.value.replace(old, new, 1)), True
        messages.append(message)
    assert done, f"no turn contains {old!r}"
    return replace(record, conversations=tuple(messages))


@pytest.fixture(scope="module")
def dog() -> Scene:
    return build_scene(dog_and_woman()[0], dog_and_woman())


# Text of the dog's trace, its replacement, and the fault. The dog walks right in frames 8 to 32, below a woman.
PLANTED = {
    "place": ("on the left in frames 10 and 20", "on the right in frames 10 and 20", "place right dog .*it is 'left'"),
    "frame": ("on the left in frames 10 and 20", "on the left in frames 10 and 40", "place .*it is not in frame 40"),
    "unshown": ("on the left in frames 10 and 20", "on the left in frames 10 and 11", "frame 11 was not shown"),
    "beyond": ("on the left in frames 10 and 20", "on the left in frames 10 and 999", "frame 999 was not shown"),
    "endless": ("on the left in frames 10 and 20", f"on the left in frames 10 and {'9' * 5000}", "has '9+' outside of"),
    "no frame": ("1 % of the frame.", "1 % of the frame; not in frame 77.", "absent .*frame 77 was not shown"),
    "absence": ("not in frames 1, 3 and 6", "not in frames 1, 3 and 8", "absent dog.*it is in frame 8"),
    "entry": ("view between frames 0 and 10", "view between frames 10 and 20", "entry dog.*no such change"),
    "exit": ("out of view between frames 30 and 40", "into view between frames 30 and 40", "entry dog.*no such change"),
    "direction": ("moves to the right from", "moves to the left from", "motion to the left dog.*to the right from 10"),
    "still": ("moves to the right from", "is almost still from", "motion almost still dog"),
    "span of motion": ("to the right from frame 10 to frame 30", "to the right from frame 10 to frame 20", "motion"),
    "size": ("takes up 1 % of the frame", "takes up 40 % of the frame", "size 40 dog.*it takes up 1 %"),
    "border": ("1 % of the frame.", "1 % of the frame, cut by the border there.", "cut dog.*does not reach the border"),
    "side": ("to the left of the woman there", "to the right of the woman there", "side .*it is to the left of"),
    "touch": ("the woman there.", "the woman there and touching it.", "touch dog.*they are apart"),
    "subject": ("The woman is on the upper right", "The dog is on the upper right", "place upper right dog"),
    "target": ("the query means the dog, not the woman", "the query means the woman, not the dog", "means woman"),
    "ruled out": ("means the dog, not the woman", "means the dog, not the dog", "rules_out dog: it is the target"),
    "best": ("Frame 10 shows it best", "Frame 35 shows it best", "best dog in 35: it is not in frame 35"),
    "stay": ("visible from frame 8 to frame 32", "visible from frame 10 to frame 32", "span dog.*from frame 8 to"),
    "quote": ('"walking right" fits', '"walking left" fits', "quote walking left: the query has no such words"),
    "nobody": ("That holds:", "Nothing here answers to the query.", "no_target .*the dog matches the query"),
    "action": ("at frames 1 to 10, with frame 10", "at frames 1 to 20, with frame 10", "select.*the action is select"),
    "number": ("That holds:", "All 7 of them agree:", "has '7' outside of every statement"),
    "number word": ("That holds:", "The three agree:", "has 'three'"),
    "negation": ("The dog is on the left", "The dog is never on the left", "has 'never'"),
    "loose place": ("The dog is on the left", "The dog, low at the bottom, is on the left", "has 'bottom'"),
    "loose event": ("That holds:", "The dog vanishes:", "has 'vanishes'"),
    "steps": ("Step 2 (spatial):", "Then:", "expected Step 1"),
    "named late": (
        "So the query means the dog",
        "The query cannot be told yet: the query means the dog",
        "names the target and states that it is not known",
    ),
    "key": ('"end": 32, "keyframe": 10}', '"end": 32, "keyframe": 35}', "marks frame 35|expected the numbers"),
    "interval": ('{"start": 8, "end": 32', '{"start": 0, "end": 32', "expected the numbers of the text"),
    "json": ('{"start": 8,', "{start: 8,", "does not parse .json"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_each_planted_contradiction_is_found(dog: Scene, name: str) -> None:
    record = traced(dog)
    assert find_faults(record, dog, HAND) == []
    old, new, expected = PLANTED[name]
    faults = find_faults(edited(record, old, new), dog, HAND)
    assert any(re.search(expected, fault) for fault in faults), faults


def test_an_answer_has_to_follow_from_the_frames_shown(dog: Scene) -> None:
    record = traced(dog)
    wrong = edited(
        edited(record, '{"start": 8, "end": 32', '{"start": 10, "end": 32'), "frames 8 to 32", "frames 10 to 32"
    )
    steps = (*record.cot_trace[:-1], replace(record.cot_trace[-1], start_frame=10))
    faults = find_faults(replace(wrong, cot_trace=steps), dog, HAND)
    assert faults == ["turn 2: answers with frames 10 to 32, the frames shown have the target from 8 to 32"]


def test_a_zoom_that_shows_nothing_new_is_a_fault(dog: Scene) -> None:
    record = traced(dog)
    system, first, zoom, *rest = record.conversations
    twice = (system, first, zoom, Message("human", "<image>"), zoom, *rest)
    again = replace(record, conversations=twice, cot_trace=(record.cot_trace[0], *record.cot_trace))
    assert "turn 2: shows nothing that was not shown before" in find_faults(again, dog, HAND)


def test_every_kind_of_claim_has_a_check() -> None:
    assert set(CHECKS) == {*PATTERNS, "quote"}


def test_claims_are_read_in_other_words() -> None:
    names = ["white dog", "white dog with spots", "cat"]
    text = (
        'Early on I make out the white dog with spots, on the left in frames 0, 7 and 9; the cat sits "still" in the '
        "center there. Later the White Dog comes into view between frames 12 and 15, above the cat in frame 15."
    )
    reading = read_claims(text, names)
    assert reading.claims == (
        Claim("quote", value="still"),
        Claim("place", "white dog with spots", (0, 7, 9), "left"),
        Claim("place", "cat", (9,), "center"),
        Claim("entry", "white dog", (12, 15)),
        Claim("side", "white dog", (15,), "above", "cat"),
    )
    assert reading.unread_words == ()
    assert read_claims("The dog isn't there in 5 frames, far left.", ["dog"]).unread_words == ("n't", "5", "left")
    assert read_claims("on the left in frame 4", ["dog"]).claims == (Claim("place", "", (4,), "left"),)


def test_a_query_without_a_target() -> None:
    nobody = build_scene(hand_task("a red bus", (None,) * FRAMES, 9), dog_and_woman())
    records = [traced(nobody, seed) for seed in range(8)]
    assert {record.round_num for record in records} == {1, 2}
    for record in records:
        assert find_faults(record, nobody, HAND) == [] and "nothing here answers" in record.gpt_turns[-1]
        assert record.cot_trace[-1].start_frame == 0 and record.cot_trace[-1].end_frame == FRAMES - 1
    false = edited(records[0], "the query. Action", "the query. So the query means the dog. Action")
    assert any(
        "means dog: the masks are those of another object" in fault for fault in find_faults(false, nobody, HAND)
    )
    assert traced(build_scene(hand_task("a red bus", (None,) * FRAMES))).round_num == 1


def test_a_target_of_several_objects() -> None:
    dogs = boxes(dict.fromkeys(range(FRAMES), (20, 40, 50, 10)))
    cat = hand_task("the cat", boxes(dict.fromkeys(range(FRAMES), (0, 0, 9, 9))), 1)
    scene = build_scene(hand_task("two dogs that stand", dogs), [cat])
    record = traced(scene)
    assert find_faults(record, scene, HAND) == []
    assert 'The query says "two", "dogs"' in record.gpt_turns[0] and "The dogs are" in record.gpt_turns[0]


def test_a_target_visible_in_one_frame() -> None:
    once = build_scene(hand_task("a bird", boxes({17: (40, 40, 20, 20)})))
    record = traced(once)
    assert find_faults(record, once, HAND) == []
    assert "in none of the frames shown so far" in record.gpt_turns[0] and "bird is" not in record.gpt_turns[0]
    assert "visible in frame 17 alone" in record.gpt_turns[-1]
    blind = replace(HAND, max_turns=1)  # no turn for a zoom: the trace is not valid
    record = to_record(once.task, blind, prose_turns(once, blind, np.random.default_rng(0)))
    assert "turn 0: no frame that was shown shows the target" in find_faults(record, once, blind)
