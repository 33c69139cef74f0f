"""Traces in few tokens: each can be looked up in those before it; what tells where to look precedes the choice."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cot_data.datasets.mevis import load_mevis
from cot_data.formats.vts_cot import Record
from cot_data.moving_shapes.expressions import name_in
from cot_data.moving_shapes.labels import LabelledVideo, load_objects
from cot_data.traces.compact_style import _Scene, topic
from cot_data.traces.dialogue import to_trajectory
from cot_data.traces.visibility import first_frames
from cot_data.traces.write import write_trace
from env.prompts import frame_labels
from env.types import Answer, Interval, Select, Task
from tests.helpers.cot_parts import TINY


@pytest.fixture(scope="module")
def tasks(shapes: Path) -> list[Task]:
    return list(load_mevis(shapes))


@pytest.fixture(scope="module")
def videos(shapes: Path) -> dict[str, LabelledVideo]:
    return {labelled.video.path: labelled for labelled in load_objects(shapes)}


def written(task: Task, seed: int = 0) -> Record:
    return write_trace(task, TINY, np.random.default_rng(seed), "brief")


def test_a_brief_look_says_where_and_comes_too_seldom_where_it_pays(tasks: list[Task]) -> None:
    """Too seldom where exploring pays and too often elsewhere, whether anything answers the query or not."""
    looks: dict[str, list[bool]] = {"pays": [], "does not": [], "no_target": []}
    for i, task in enumerate(tasks):
        turns = [written(task, 8 * i + seed).gpt_turns for seed in range(8)]
        kind = "pays" if task.explore else "does not" if any(task.gold) else "no_target"
        looks[kind] += [len(each) == 2 for each in turns]
        thoughts = {each[0].partition("</think>")[0] for each in turns if len(each) == 2}
        where = r"(\w+) to (\w+), frame (\w+)"
        begin = rf"<think>Step 1: {topic(task.expression)} unclear\."
        form = rf"{begin} Step 2: {where}\. Step 3: unclear\. Action: look\."
        assert all(re.fullmatch(form, thought) for thought in thoughts)
        named = set(re.findall(r"\d+", task.expression))
        found = {word for thought in thoughts for word in re.fullmatch(form, thought).groups()}  # pyright: ignore
        assert not task.explore or not thoughts or found == named
    assert np.mean(looks["pays"]) == pytest.approx(0.45, abs=0.1)
    assert np.mean(looks["does not"]) == pytest.approx(0.15, abs=0.1)
    assert np.mean(looks["no_target"]) == pytest.approx(0.15, abs=0.15)


def frames_of(text: str) -> dict[str, str]:
    """Label -> who is there, of the strip as a brief answer tells it."""
    seen = re.sub(r"^.*Step 1: (.*?)\. Step 2.*$", r"\1", text, flags=re.DOTALL).rpartition("; ")[2]
    return dict(re.findall(r"(?:^| )([a-y])\b((?: \w\w+)*)", seen))


def test_an_answer_tells_who_is_in_every_frame_of_the_strip_and_in_the_close_up(
    tasks: list[Task], videos: dict[str, LabelledVideo]
) -> None:
    closeups = 0
    for i, task in enumerate(tasks):
        objects = {each.caption: each for each in videos[task.video.path].objects}
        record = write_trace(task, TINY, np.random.default_rng(i), "brief", objects=tuple(objects.values()))
        trajectory = to_trajectory(record, task, TINY)
        text = trajectory.turns[-1].action.text
        labels = frame_labels(frame.frame_idx for frame in trajectory.turns[0].observation.frames)
        told = frames_of(text)
        assert list(told) == list(labels.values())
        for t, label in labels.items():
            there = {name for name, each in objects.items() if each.mask(t) is not None}
            assert {name for name in objects if name in told[label]} == there
            assert "flash" not in told[label] and "checkered" not in told[label]
        if len(trajectory.turns) == 2:
            closeups += 1
            look = trajectory.turns[0].decision
            assert isinstance(look, Select)
            shown = {frame.frame_idx for frame in trajectory.turns[1].observation.frames}
            assert shown <= set(range(look.interval.start, look.interval.end)) and look.key_frame in shown
            closeup = text.partition(" closeup ")[2].partition(";")[0]
            in_frames = dict(re.findall(r"(?:^| )([A-Z])\b((?: [a-z]+)*)", closeup))
            assert list(in_frames) == list("ABCDEFGH"[: len(shown)])
            for t, told_of in zip(sorted(shown), in_frames.values(), strict=True):
                for name, each in objects.items():
                    assert (name in told_of) == (each.mask(t) is not None)
                    worn = re.search(rf"{name}((?: flash| checkered)*)", told_of)
                    assert worn is None or set(worn[1].split()) == set(each.marks_at(t))
    assert closeups >= 12


def test_letters_stand_for_the_frames_of_the_block(tasks: list[Task], videos: dict[str, LabelledVideo]) -> None:
    """Interval and key frame are said in letters; the key frame is the middle one of those that show the target."""
    for i, task in enumerate(tasks):
        record = write_trace(task, TINY, np.random.default_rng(i), "brief", objects=videos[task.video.path].objects)
        trajectory = to_trajectory(record, task, TINY)
        answer, text = trajectory.turns[-1].decision, trajectory.turns[-1].action.text
        assert isinstance(answer, Answer)
        labels = frame_labels(frame.frame_idx for frame in trajectory.turns[0].observation.frames)
        if len(trajectory.turns) == 2 and isinstance(look := trajectory.turns[0].decision, Select):
            labels[look.key_frame] = "z"
        shown = frame_labels(frame.frame_idx for frame in trajectory.turns[0].observation.frames)
        start, end, key = re.findall(r"Step 2: .*?(\w+) to (\w+), frame (\w+)\. Step 3", text)[0]
        if any(task.gold[t] is not None for t in shown):
            assert (start, end) == (shown[answer.interval.start], shown[answer.interval.end - 1])
            assert key == labels[answer.key_frame]
        with_target = [label for label, words in frames_of(text).items() if task.caption and task.caption in words]
        assert key == "z" or not with_target or key == with_target[len(with_target) // 2]


def test_an_answer_repeats_what_the_query_names(tasks: list[Task], videos: dict[str, LabelledVideo]) -> None:
    found = set()
    for task in tasks:
        objects = videos[task.video.path].objects
        record = write_trace(task, TINY, np.random.default_rng(0), "brief", objects=objects)
        said = re.findall(r"Step 2: (?:([^,]*), )?[a-z ]+ \w+ to", record.gpt_turns[-1])[0]
        if task.explore:
            assert said == ("checkered" if task.explore == "fine_mark" else "flash")
        elif task.family == "relation":
            label, name = re.findall(r"^(\w) (.*)$", said)[0]
            there = frames_of(record.gpt_turns[-1])[label]
            assert name in task.expression and name in there and task.caption in there
        elif name_in(task.expression):
            assert said == name_in(task.expression)
        else:
            assert said == ""
        found.add(task.explore or task.family)
    assert found == {"fine_mark", "brief_event", "relation", "appearance", "motion", "temporal", "no_target"}


def test_checks_are_told_of_zoomed_frames_only_where_these_are_large(
    tasks: list[Task], videos: dict[str, LabelledVideo]
) -> None:
    """The zoom shows the checks, the key frame does not."""
    found = 0
    for task in (task for task in tasks if task.explore == "fine_mark"):
        early = max(task.evidence[0] - 6, 0)
        objects = videos[task.video.path].objects
        for pixels in (1024, 4096):
            scene = _Scene(task, replace(TINY, zoom_pixels=pixels), objects, first_frames(task, TINY))
            look = Select(Interval(early, task.evidence[-1] + 1), early)
            wears = any("checkered" in each.marks_at(early) for each in objects)
            closeup = re.findall(r" closeup (A.*?);", scene.answer(look).text)[0]
            if not wears:
                found += 1
                assert ("checkered" in closeup) == (pixels == 4096)
    assert found >= 4


TOPICS = {
    "the dark blue shape": "dark blue",
    "the red shape": "red",
    "the shape that moves left": "moves",
    "the shape that is checkered near frame 10": "checkered",
    "the shape left of the dark blue one when both are first seen": "left",
    "A white dog": "white",
    "the shape": "the",
}


def test_a_turn_begins_with_the_word_that_its_query_turns_on(tasks: list[Task]) -> None:
    assert {text: topic(text) for text in TOPICS} == TOPICS
    for task in tasks:
        assert all(f"Step 1: {topic(task.expression)} " in text for text in written(task).gpt_turns)
    marked = {topic(task.expression) for task in tasks if task.explore}
    assert marked == {"flashes", "checkered"}  # what tells where exploring pays is said before the choice is made
    assert not marked & {topic(task.expression) for task in tasks if not task.explore}


def test_brief_traces_are_short(tasks: list[Task], videos: dict[str, LabelledVideo]) -> None:
    for task in tasks:
        objects = videos[task.video.path].objects
        record = write_trace(task, TINY, np.random.default_rng(0), "brief", objects=objects)
        assert all(len(text.split()) <= 130 for text in record.gpt_turns)
