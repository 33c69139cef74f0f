"""Evidence from masks and words, by cases worked out by hand: boxes in frames of 100 x 100, so pixels are percent."""

from __future__ import annotations

import numpy as np
import pytest

from cot_data.traces.candidates import distinct_names, scene_of
from cot_data.traces.mask_evidence import Change, Motion, changes, growth, is_cut, motion, percent, side, touches
from cot_data.traces.parse_expression import parse_expression
from cot_data.traces.plan import plan_looks
from cot_data.traces.query_evidence import comes_first, is_farthest, query_words, reasons
from env.types import Interval, Select
from tests.helpers.cot_parts import DOG, FRAMES, HAND, WOMAN, boxes, dog_and_woman, hand_task


def test_changes_lie_between_shown_frames() -> None:
    assert changes({10, 20, 30}, [0, 10, 20, 30, 40]) == [Change(True, 0, 10), Change(False, 30, 40)]
    assert changes({0, 40}, [0, 20, 40]) == [Change(False, 0, 20), Change(True, 20, 40)]
    assert changes({0, 1}, [0, 1]) == [] == changes(set(), [0, 1])


def test_motion_goes_one_way_or_two_or_none() -> None:
    assert motion(DOG, [10, 20, 30]) == [Motion("to the right", 10, 30)]  # 40 of 100 to the right
    assert motion(WOMAN, [0, 40]) == [Motion("almost still", 0, 40)]
    assert motion(WOMAN, [0]) == [] == motion(WOMAN, [])
    there_and_back = boxes({0: (10, 10, 8, 8), 1: (50, 10, 8, 8), 2: (10, 50, 8, 8)})
    assert motion(there_and_back, [0, 1, 2]) == [Motion("to the right", 0, 1), Motion("to the left and down", 1, 2)]
    zigzag = boxes({t: (10 + 30 * (t % 2), 10, 8, 8) for t in range(6)})
    assert motion(zigzag, range(6)) == []
    slight = boxes({0: (10, 10, 8, 8), 1: (15, 10, 8, 8)})  # 5: more than still, less than moved
    assert motion(slight, [0, 1]) == []


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
def test_expressions_are_taken_apart(text: str) -> None:
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


def test_names_are_as_short_as_they_can_be() -> None:
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
    scene = scene_of(dog, [dog, woman, again, group, nobody])
    assert scene.target is not None and scene.target.name == "dog" and [each.name for each in scene.others] == ["woman"]
    scene = scene_of(nobody, [dog, woman, nobody])
    assert scene.target is None and len(scene.others) == 2
    assert scene_of(dog).others == ()


def test_words_of_the_query_are_weighed() -> None:
    dog, woman = (scene_of(task, dog_and_woman()) for task in dog_and_woman())
    assert dog.target and woman.target
    shown = (0, 10, 20, 30, 40)
    assert query_words(dog) == 'The query says "white dog" and "walking right".'
    assert reasons(dog, dog.target, shown) == ['"walking right" fits the dog: to the right from frame 10 to frame 30.']
    assert reasons(woman, woman.target, shown) == []
    wrong = scene_of(hand_task("a dog walking left", DOG))
    assert wrong.target and reasons(wrong, wrong.target, shown) == []  # what does not fit is not said to
    assert comes_first(woman.target, woman.others, shown, is_entry=True, is_first=True)
    assert not comes_first(dog.target, dog.others, shown, is_entry=True, is_first=True)
    assert comes_first(dog.target, dog.others, shown, is_entry=False, is_first=True)
    assert is_farthest(woman.target, woman.things, "up", 20) and not is_farthest(dog.target, dog.things, "up", 20)
    assert not is_farthest(woman.target, woman.things, "up", 0), "the only one in sight is not the farthest"


def test_looks_go_into_the_gaps_at_both_ends_of_a_stay() -> None:
    scene = scene_of(dog_and_woman()[0], dog_and_woman())
    looks = plan_looks(scene, HAND, np.random.default_rng(0))
    # shown are 0, 10, .., 40; the dog is there from 8 to 32. Both gaps are ten wide: the first comes first.
    assert [(look.select, look.reason) for look in looks] == [
        (Select(Interval(1, 11), 10), "entry"),
        (Select(Interval(30, 40), 30), "exit"),
    ]


def test_what_one_frame_shows_is_searched_in_its_gap() -> None:
    once = boxes({17: (40, 40, 20, 20)})
    looks = plan_looks(scene_of(hand_task("a bird", once)), HAND, np.random.default_rng(0))
    assert (looks[0].select, looks[0].reason) == (Select(Interval(11, 20), 17), "hidden")
    assert [look.reason for look in looks[1:]] == ["entry"] or len(looks) == 1


def test_what_stays_in_view_is_answered_at_once_or_seen_large() -> None:
    scene = scene_of(dog_and_woman()[1], dog_and_woman())
    reasons_seen = [[look.reason for look in plan_looks(scene, HAND, np.random.default_rng(i))] for i in range(40)]
    assert reasons_seen.count(["close"]) + reasons_seen.count([]) == 40 and 4 <= reasons_seen.count(["close"]) <= 20
