"""The compact style: its zooms and answers, and the topic that begins each turn."""

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
from cot_data.traces.compact_style import CompactWriter, topic
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


def test_a_zoom_names_its_frames_and_is_too_rare_where_it_pays(tasks: list[Task]) -> None:
    """Zooms are too rare where exploring pays and too frequent elsewhere, with or without a target."""
    zooms: dict[str, list[bool]] = {"pays": [], "does not": [], "no_target": []}
    for i, task in enumerate(tasks):
        turns = [written(task, 8 * i + seed).gpt_turns for seed in range(8)]
        kind = "pays" if task.explore else "does not" if any(task.gold) else "no_target"
        zooms[kind] += [len(each) == 2 for each in turns]
        thoughts = {each[0].partition("</think>")[0] for each in turns if len(each) == 2}
        where = r"(\w+) to (\w+), frame (\w+)"
        begin = rf"<think>Step 1: {topic(task.expression)} unclear\."
        form = rf"{begin} Step 2: {where}\. Step 3: unclear\. Action: look\."
        assert all(re.fullmatch(form, thought) for thought in thoughts)
        named = set(re.findall(r"\d+", task.expression))
        found = {word for thought in thoughts for word in re.fullmatch(form, thought).groups()}  # pyright: ignore
        assert not task.explore or not thoughts or found == named
    assert np.mean(zooms["pays"]) == pytest.approx(0.45, abs=0.1)
    assert np.mean(zooms["does not"]) == pytest.approx(0.15, abs=0.1)
    assert np.mean(zooms["no_target"]) == pytest.approx(0.15, abs=0.15)


def frames_of(text: str) -> dict[str, str]:
    """Frame label to the names in it, from the list of the strip in an answer."""
    seen = re.sub(r"^.*Step 1: (.*?)\. Step 2.*$", r"\1", text, flags=re.DOTALL).rpartition("; ")[2]
    return dict(re.findall(r"(?:^| )([a-y])\b((?: \w\w+)*)", seen))


def test_an_answer_lists_the_objects_in_every_frame_of_the_strip_and_the_close_up(
    tasks: list[Task], videos: dict[str, LabelledVideo]
) -> None:
    closeups = 0
    for i, task in enumerate(tasks):
        objects = {each.caption: each for each in videos[task.video.path].objects}
        record = write_trace(task, TINY, np.random.default_rng(i), "brief", objects=tuple(objects.values()))
        trajectory = to_trajectory(record, task, TINY)
        text = trajectory.turns[-1].action.text
        labels = frame_labels(frame.frame_idx for frame in trajectory.turns[0].observation.frames)
        listed = frames_of(text)
        assert list(listed) == list(labels.values())
        for t, label in labels.items():
            visible = {name for name, each in objects.items() if each.mask(t) is not None}
            assert {name for name in objects if name in listed[label]} == visible
            assert "flash" not in listed[label] and "checkered" not in listed[label]
        if len(trajectory.turns) == 2:
            closeups += 1
            zoom = trajectory.turns[0].decision
            assert isinstance(zoom, Select)
            shown = {frame.frame_idx for frame in trajectory.turns[1].observation.frames}
            assert shown <= set(range(zoom.interval.start, zoom.interval.end)) and zoom.key_frame in shown
            closeup = text.partition(" closeup ")[2].partition(";")[0]
            in_frames = dict(re.findall(r"(?:^| )([A-Z])\b((?: [a-z]+)*)", closeup))
            assert list(in_frames) == list("ABCDEFGH"[: len(shown)])
            for t, names in zip(sorted(shown), in_frames.values(), strict=True):
                for name, each in objects.items():
                    assert (name in names) == (each.mask(t) is not None)
                    marks = re.search(rf"{name}((?: flash| checkered)*)", names)
                    assert marks is None or set(marks[1].split()) == set(each.marks_at(t))
    assert closeups >= 12


def test_letters_match_the_frames_of_the_action(tasks: list[Task], videos: dict[str, LabelledVideo]) -> None:
    """Letters name interval and key frame; the key frame is the middle one of those that show the target."""
    for i, task in enumerate(tasks):
        record = write_trace(task, TINY, np.random.default_rng(i), "brief", objects=videos[task.video.path].objects)
        trajectory = to_trajectory(record, task, TINY)
        answer, text = trajectory.turns[-1].decision, trajectory.turns[-1].action.text
        assert isinstance(answer, Answer)
        labels = frame_labels(frame.frame_idx for frame in trajectory.turns[0].observation.frames)
        if len(trajectory.turns) == 2 and isinstance(zoom := trajectory.turns[0].decision, Select):
            labels[zoom.key_frame] = "z"
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
        clue = re.findall(r"Step 2: (?:([^,]*), )?[a-z ]+ \w+ to", record.gpt_turns[-1])[0]
        if task.explore:
            assert clue == ("checkered" if task.explore == "fine_mark" else "flash")
        elif task.family == "relation":
            label, name = re.findall(r"^(\w) (.*)$", clue)[0]
            listed = frames_of(record.gpt_turns[-1])[label]
            assert name in task.expression and name in listed and task.caption in listed
        elif name_in(task.expression):
            assert clue == name_in(task.expression)
        else:
            assert clue == ""
        found.add(task.explore or task.family)
    assert found == {"fine_mark", "brief_event", "relation", "appearance", "motion", "temporal", "no_target"}


def test_checks_are_listed_only_for_large_zoomed_frames(tasks: list[Task], videos: dict[str, LabelledVideo]) -> None:
    """The zoom shows the checks, the key frame does not."""
    found = 0
    for task in (task for task in tasks if task.explore == "fine_mark"):
        early = max(task.evidence[0] - 6, 0)
        objects = videos[task.video.path].objects
        for pixels in (1024, 4096):
            writer = CompactWriter(task, replace(TINY, zoom_pixels=pixels), objects, first_frames(task, TINY))
            zoom = Select(Interval(early, task.evidence[-1] + 1), early)
            has_checks = any("checkered" in each.marks_at(early) for each in objects)
            closeup = re.findall(r" closeup (A.*?);", writer.answer(zoom).text)[0]
            if not has_checks:
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


def test_a_turn_begins_with_the_topic_of_its_query(tasks: list[Task]) -> None:
    assert {text: topic(text) for text in TOPICS} == TOPICS
    for task in tasks:
        assert all(f"Step 1: {topic(task.expression)} " in text for text in written(task).gpt_turns)
    marked = {topic(task.expression) for task in tasks if task.explore}
    assert marked == {"flashes", "checkered"}  # the word that decides whether exploring pays precedes the decision
    assert not marked & {topic(task.expression) for task in tasks if not task.explore}


def test_compact_traces_are_short(tasks: list[Task], videos: dict[str, LabelledVideo]) -> None:
    for task in tasks:
        objects = videos[task.video.path].objects
        record = write_trace(task, TINY, np.random.default_rng(0), "brief", objects=objects)
        assert all(len(text.split()) <= 130 for text in record.gpt_turns)
