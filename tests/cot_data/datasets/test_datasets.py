"""Every loader on its published layout: tasks, expressions, subsets, and gold masks against the drawn ones."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from cot_data.convert_reason_vos import convert
from cot_data.datasets import DATASETS, load_tasks
from cot_data.datasets.mevis import load_mevis
from env.errors import DataError
from env.frames import FrameCache
from env.types import Task
from tests.helpers import published_layouts
from tests.helpers.env_videos import read_number
from tests.helpers.published_layouts import LAYOUTS, clip_target, target

NOTHING = target(9)

# layout -> [(end of the task id, expression, subset, masks, or None if they are unknown)]
EXPECTED: dict[str, list[tuple[str, str, str, np.ndarray | None]]] = {
    "mevis": [
        ("train/clip/10", "what moves left", "", target(2)),
        ("train/clip/2", "both shapes", "", target(1, 2)),
    ],
    "mevis test": [("test/clip/0", "what moves right", "", None)],
    "ref_youtube_vos": [
        ("train/train/0", "what moves right", "", target(1)),
        ("train/train/1", "what moves left", "", target(2)),
    ],
    "ref_youtube_vos valid": [("valid/valid/0", "what moves right", "", None)],
    "ref_davis17": [
        ("valid/clip/0", "what moves right", "", target(1)),
        ("valid/clip/1", "the long one", "", target(1)),
        ("valid/clip/2", "what moves left", "", target(2)),
        ("valid/clip/3", "the one that goes", "", target(2)),
    ],
    "revos": [
        ("valid/JPEGImages/source/clip/0", "what moves right", "referring", target(1)),
        ("valid/JPEGImages/source/clip/1", "which would leave the picture first?", "reasoning", target(1, 2)),
        ("valid/JPEGImages/source/clip/2", "the elephant", "hallucination", NOTHING),
    ],
    "reason_vos": [
        ("ReasonVOS/clip/0", "what gains on the other?", "", target(1)),
        ("ReasonVOS/clip/1", "what stays?", "", target(1)),
        ("ReasonVOS/clip/2", "what is about to go?", "", target(2)),
    ],
    "long_rvos": [
        ("valid/clip/0", "the long one", "static", target(1)),
        ("valid/clip/1", "what moves left", "dynamic", target(2)),
        ("valid/clip/2", "the two that pass", "hybrid", target(1, 2)),
    ],
    "long_rvos train": [("train/clip/0", "the long one", "static", target(1))],
    "ref_sav": [
        ("ref_sav_eval/sav_000001/0", "the bar that goes right all the while", "long", target(1)),
        ("ref_sav_eval/sav_000001/1", "the left one", "short", target(2)),
    ],
    "ref_sav train": [
        ("ref_sav/sav_000001/0", "the first bar", "", target(1)),
        ("ref_sav/sav_000001/1", "the second bar", "", target(2)),
    ],
    "groundmore": [
        ("GroundMoRe/match_0010_0012/0", "Who stays?", "Causal", clip_target(1, 0, 12)),
        ("GroundMoRe/match_0010_0012/1", "Who goes?", "Sequential", clip_target(2, 6, 12)),
    ],
}
EXPECTED["ref_davis17 PNG"] = EXPECTED["ref_davis17"]
EXPECTED["revos, short names"] = [
    (task_id.replace("JPEGImages/", ""), expression, subset, masks_THW)
    for task_id, expression, subset, masks_THW in EXPECTED["revos"]
]


def decoded(task: Task) -> np.ndarray | None:
    """The gold masks, bool [T, H, W], decoded by pycocotools; None if they are unknown."""
    if not task.gold:
        return None
    shape = (task.video.height, task.video.width)
    masks: list[Any] = [np.zeros(shape) if each is None else coco_mask.decode(each) for each in task.gold]  # type: ignore[arg-type]
    return np.stack(masks) > 0


def test_every_data_set_has_a_layout_here() -> None:
    assert {name for name, _ in LAYOUTS.values()} == set(DATASETS)
    assert EXPECTED.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_loader_reads_its_published_layout(layout: str, tmp_path: Path) -> None:
    name, write = LAYOUTS[layout]
    tasks = load_tasks(name, write(tmp_path))
    assert [outline.task_id for outline in tasks.outlines] == [row[0] for row in EXPECTED[layout]]
    cache = FrameCache()
    for task, (task_id, expression, subset, masks_THW) in zip(tasks, EXPECTED[layout], strict=True):
        assert (task.task_id, task.expression, task.subset) == (task_id, expression, subset)
        assert cache.full(task.video, task.video.num_frames - 1).shape == (task.video.height, task.video.width, 3)
        found_THW = decoded(task)
        if masks_THW is None:
            assert found_THW is None
        else:
            np.testing.assert_array_equal(found_THW, masks_THW)
            assert [each is None for each in task.gold] == [not mask_HW.any() for mask_HW in masks_THW]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_slices_and_copies_have_the_same_tasks(layout: str, tmp_path: Path) -> None:
    name, write = LAYOUTS[layout]
    tasks = load_tasks(name, write(tmp_path))
    every = list(tasks)
    assert list(tasks[1:]) == every[1:] and tasks[-1] == every[-1]
    assert list(pickle.loads(pickle.dumps(tasks))) == every
    with pytest.raises(IndexError):
        tasks[len(tasks)]


def test_ref_sav_takes_every_fourth_frame(tmp_path: Path) -> None:
    task = load_tasks("ref_sav", published_layouts.ref_sav_train(tmp_path))[0]
    cache = FrameCache()
    shown = [read_number(cache.full(task.video, t)) for t in range(task.video.num_frames)]
    assert shown == [0, 4, 8, 12]


def test_a_pickle_of_youtube_vos_numbers_its_expressions(tmp_path: Path) -> None:
    root = published_layouts.ref_youtube_vos(tmp_path)
    masks = {str(i): published_layouts.rles(2 - i) for i in range(2)}  # swapped, so that they differ from the PNGs
    (root.parent / "mask_dict.pkl").write_bytes(pickle.dumps(masks))
    first, second = load_tasks("ref_youtube_vos", root)
    np.testing.assert_array_equal(decoded(first), target(2))
    np.testing.assert_array_equal(decoded(second), target(1))


def test_numbered_masks_need_videos_in_string_order(tmp_path: Path) -> None:
    root = published_layouts.ref_davis17(tmp_path)
    meta = root.parent / "meta_expressions" / "valid" / "meta_expressions.json"
    videos = json.loads(meta.read_text())["videos"]
    meta.write_text(json.dumps({"videos": {"z": videos["clip"], "clip": videos["clip"]}}))
    with pytest.raises(DataError, match=r"videos: expected videos in string order.* found 'clip' after 'z'"):
        load_tasks("ref_davis17", root)


def test_converted_reason_vos_reads_as_mevis(tmp_path: Path) -> None:
    root = published_layouts.reason_vos(tmp_path)
    out = root.parent / "format"
    convert(root, out)
    meta = json.loads((out / "meta_expressions_format.json").read_text())
    assert [each["anno_id"] for each in meta["videos"]["clip"]["expressions"].values()] == [0, 0, 1]
    (out / "meta_expressions.json").write_text(json.dumps(meta))
    (root / "JPEGImages").rename(out / "JPEGImages")
    for task, row in zip(load_mevis(out), EXPECTED["reason_vos"], strict=True):
        assert task.expression == row[1]
        np.testing.assert_array_equal(decoded(task), row[3])


def test_an_error_explains_a_root_without_a_split(tmp_path: Path) -> None:
    root = published_layouts.revos(tmp_path)
    with pytest.raises(DataError, match=r"<split> as root, with the metadata in .*meta_expressions_revos_\.json"):
        load_tasks("revos", root.parent)


def test_the_masks_of_a_question_end_with_its_action(tmp_path: Path) -> None:
    root = published_layouts.groundmore(tmp_path)
    meta = json.loads((root / "test_v2.json").read_text())
    questions = meta["videos"]["match_0010_0012"]["questions"]
    questions["0"]["action_end"] = "00:11"  # six of the twelve frames
    (root / "test_v2.json").write_text(json.dumps(meta))
    gold = load_tasks("groundmore", root)[0].gold
    assert [mask is not None for mask in gold] == [True] * 6 + [False] * 6
    questions["0"]["action_end"] = questions["0"]["action_start"]
    (root / "test_v2.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match="action_end: expected a time after action_start, found frames 0 to 0"):
        load_tasks("groundmore", root)


def test_an_id_that_stands_twice_gives_one_above_the_highest(tmp_path: Path) -> None:
    root = published_layouts.reason_vos(tmp_path)
    meta = json.loads((root / "meta_expressions.json").read_text())
    for record, exp_id in zip(meta["videos"]["clip"]["expressions"], (0, 7, 7), strict=True):
        record["exp_id"] = exp_id
    (root / "meta_expressions.json").write_text(json.dumps(meta))
    found = {outline.task_id: outline.expression for outline in load_tasks("reason_vos", root).outlines}
    assert found == {
        "ReasonVOS/clip/0": "what gains on the other?",
        "ReasonVOS/clip/7": "what stays?",
        "ReasonVOS/clip/8": "what is about to go?",
    }


@pytest.mark.parametrize("obj_id", ["0", "255", "x", ""])
def test_an_object_of_a_palette_has_a_value_from_1_to_254(obj_id: str, tmp_path: Path) -> None:
    root = published_layouts.ref_youtube_vos(tmp_path)
    path = root.parent / "meta_expressions" / "train" / "meta_expressions.json"
    meta = json.loads(path.read_text())
    meta["videos"]["train"]["expressions"]["0"]["obj_id"] = obj_id
    path.write_text(json.dumps(meta))
    with pytest.raises(DataError, match="obj_id: expected palette values from 1 to 254"):
        load_tasks("ref_youtube_vos", root)
