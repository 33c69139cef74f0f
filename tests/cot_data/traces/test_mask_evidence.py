"""Evidence from masks and words, on hand-made cases: boxes in frames of 100 x 100, so that pixels are percent."""

from __future__ import annotations

import numpy as np
import pytest

from cot_data.traces.candidates import build_scene, distinct_names
from cot_data.traces.mask_evidence import Change, Motion, changes, growth, is_cut, motions, percent, side, touches
from cot_data.traces.parse_expression import parse_expression
from cot_data.traces.plan import plan_zooms
from cot_data.traces.query_evidence import comes_first, is_farthest, query_words, reasons
from env.types import Interval, Select
from tests.helpers.cot_parts import DOG, FRAMES, HAND, WOMAN, boxes, dog_and_woman, hand_task


def test_changes_are_between_shown_frames() -> None:
    assert changes({10, 20, 30}, [0, 10, 20, 30, 40]) == [Change(True, 0, 10), Change(False, 30, 40)]
    assert changes({0, 40}, [0, 20, 40]) == [Change(False, 0, 20), Change(True, 20, 40)]
    assert changes({0, 1}, [0, 1]) == [] == changes(set(), [0, 1])


def test_a_path_has_one_motion_or_two_or_none() -> None:
    assert motions(DOG, [10, 20, 30]) == [Motion("to the right", 10, 30)]  # 40 of 100 to the right
    assert motions(WOMAN, [0, 40]) == [Motion("almost still", 0, 40)]
    assert motions(WOMAN, [0]) == [] == motions(WOMAN, [])
    there_and_back = boxes({0: (10, 10, 8, 8), 1: (50, 10, 8, 8), 2: (10, 50, 8, 8)})
    assert motions(there_and_back, [0, 1, 2]) == [Motion("to the right", 0, 1), Motion("to the left and down", 1, 2)]
    zigzag = boxes({t: (10 + 30 * (t % 2), 10, 8, 8) for t in range(6)})
    assert motions(zigzag, range(6)) == []
    slight = boxes({0: (10, 10, 8, 8), 1: (15, 10, 8, 8)})  # a shift of 5: too much for still, too little for motion
    assert motions(slight, [0, 1]) == []


def test_sizes_sides_and_borders() -> None:
    a = boxes({0: (10, 10, 10, 10), 1: (10, 10, 20, 10), 2: (0, 10, 10, 5)})
    b = boxes({0: (20, 10, 10, 10), 1: (12, 60, 20, 10), 2: (40, 10, 10, 5)})
    assert [percent(a, t) for t in (0, 1, 2)] == [1, 2, 1]
    assert growth(a, 0, 1) == "larger" and growth(a, 1, 2) == "smaller" and growth(a, 0, 0) is None
    assert [is_cut(a, t) for t in (0, 1, 2)] == [False, False, True]
    assert side(a, b, 0) == "to the left of" and side(b, a, 0) == "to the right of"
    assert side(a, b, 1) == "above" and side(b, a, 1) == "below" and side(a, a, 0) is None
    assert touches(a, b, 0) and touches(b, a, 0) and not touches(a, b, 1) and not touches(a, b, 2)


PARSES = {
    "a white dog with black patches": ("dog", "white dog", "with black patches", ("white", "with black patches")),
    "a boy in a red tshirt performing a breakdance": ("boy", "boy", "in a red tshirt performing a breakdance", ...),
    "the shape that flashes between frames 8 and 12": ("shape", "shape", "flashes between frames 8 and 12", ()),
    "The left elephant walking slowly": ("elephant", "elephant", "walking slowly", ()),
    "Moving from left to right, the bear in front": ("bear", "bear", "in front", ...),
    "the flying bird": ("bird", "flying bird", "", ("flying",)),
    "moving left": ("", "", "", ...),
    "": ("", "", "", ()),
}


@pytest.mark.parametrize("text", PARSES)
def test_expressions_are_parsed(text: str) -> None:
    parsed = parse_expression(text)
    head, noun, rest, attributes = PARSES[text]
    assert (parsed.head, parsed.noun, parsed.rest) == (head, noun, rest)
    assert attributes in (..., parsed.attributes)
    every = [*parsed.attributes, *parsed.motions, *parsed.places, *parsed.times]
    assert all(part in text for part in every), "every part can be quoted"


def test_words_of_motion_place_time_and_quantity() -> None:
    assert parse_expression("two dogs running to the left").motions == ("running to the left",)
    quantities = [parse_expression(text).quantity for text in ("two dogs", "a group of birds", "the two cats", "a cat")]
    assert quantities == ["two", "group of", "two", ""]
    assert parse_expression("monkeys that are not moving").motions == ("not moving",)
    assert parse_expression("the shape left of the cat").places == ("left of",)
    assert parse_expression("the shape that appears last").times == ("appears", "last")
    assert [parse_expression(text).is_plural for text in ("two dogs", "dogs", "the bus", "children", "a dog")] == [
        True,
        True,
        False,
        True,
        False,
    ]


def test_names_are_as_short_as_possible() -> None:
    texts = ["a white dog with black patches", "a white dog with grey patches", "a woman in red", "moving left"]
    tasks = [hand_task(text, WOMAN, number) for number, text in enumerate(texts)]
    names = ["white dog with black patches", "white dog with grey patches", "woman", "moving left"]
    assert distinct_names(tasks) == names
    assert distinct_names([hand_task("the dog", DOG), hand_task("the dog", WOMAN)]) == ["dog (1)", "dog (2)"]


def test_candidates_are_the_other_objects_of_the_video() -> None:
    dog, woman = dog_and_woman()
    again = hand_task("the animal", DOG, 2)  # the same masks: the same object
    both_gold = tuple(a or b for a, b in zip(DOG, WOMAN, strict=True))  # where the dog is, its masks alone
    group = hand_task("both of them", both_gold, 3)
    nobody = hand_task("a red bus", (None,) * FRAMES, 4)
    scene = build_scene(dog, [dog, woman, again, group, nobody])
    assert scene.target is not None and scene.target.name == "dog" and [each.name for each in scene.others] == ["woman"]
    scene = build_scene(nobody, [dog, woman, nobody])
    assert scene.target is None and len(scene.others) == 2
    assert build_scene(dog).others == ()


def test_confirmed_words_of_the_query_are_stated() -> None:
    dog, woman = (build_scene(task, dog_and_woman()) for task in dog_and_woman())
    assert dog.target and woman.target
    shown = (0, 10, 20, 30, 40)
    assert query_words(dog) == 'The query says "white dog" and "walking right".'
    assert reasons(dog, dog.target, shown) == ['"walking right" fits the dog: to the right from frame 10 to frame 30.']
    assert reasons(woman, woman.target, shown) == []
    wrong = build_scene(hand_task("a dog walking left", DOG))
    assert wrong.target and reasons(wrong, wrong.target, shown) == []  # unconfirmed words are not mentioned
    assert comes_first(woman.target, woman.others, shown, is_entry=True, is_first=True)
    assert not comes_first(dog.target, dog.others, shown, is_entry=True, is_first=True)
    assert comes_first(dog.target, dog.others, shown, is_entry=False, is_first=True)
    assert is_farthest(woman.target, woman.candidates, "up", 20) and not is_farthest(
        dog.target, dog.candidates, "up", 20
    )
    assert not is_farthest(woman.target, woman.candidates, "up", 0), "the only visible candidate is not the farthest"


def test_zooms_go_into_the_gaps_before_and_after_the_target() -> None:
    scene = build_scene(dog_and_woman()[0], dog_and_woman())
    zooms = plan_zooms(scene, HAND, np.random.default_rng(0))
    # Frames 0, 10, .., 40 are shown; the dog is visible from 8 to 32. Both gaps have ten frames: the first comes first.
    assert [(zoom.select, zoom.reason) for zoom in zooms] == [
        (Select(Interval(1, 11), 10), "entry"),
        (Select(Interval(30, 40), 30), "exit"),
    ]


def test_a_target_visible_in_one_frame_is_searched_in_its_gap() -> None:
    once = boxes({17: (40, 40, 20, 20)})
    zooms = plan_zooms(build_scene(hand_task("a bird", once)), HAND, np.random.default_rng(0))
    assert (zooms[0].select, zooms[0].reason) == (Select(Interval(11, 20), 17), "hidden")
    assert [zoom.reason for zoom in zooms[1:]] == ["entry"] or len(zooms) == 1


def test_a_target_that_stays_in_view_is_answered_at_once_or_after_a_larger_view() -> None:
    scene = build_scene(dog_and_woman()[1], dog_and_woman())
    reasons_seen = [[zoom.reason for zoom in plan_zooms(scene, HAND, np.random.default_rng(i))] for i in range(40)]
    assert reasons_seen.count(["close"]) + reasons_seen.count([]) == 40 and 4 <= reasons_seen.count(["close"]) <= 20
