"""Outlines, frame images and figures of the replay page."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest

from env.errors import DataError
from env.frames import FrameCache
from env.viewer.overlay import ImageBook, outline_path, region_iou, visible_runs
from tests.helpers.replay_samples import box, encode, small_task


def filled(path: str, height: int, width: int) -> np.ndarray:
    """Return the pixels of an SVG path, filled even-odd as by a browser, drawn by OpenCV at eight times the size."""
    canvas_HW = np.zeros((height * 8, width * 8), np.uint8)
    polygons = []
    for piece in re.findall(r"M([^MZ]*)Z", path):
        points = np.array([[float(value) for value in point.split()] for point in piece.split("L")])
        polygons.append(np.round(points * 8).astype(np.int32))
    cv2.fillPoly(canvas_HW, polygons, 1)
    return canvas_HW[4::8, 4::8].astype(bool)


def test_the_outline_of_a_ring_keeps_its_hole():
    mask_HW = np.zeros((48, 80), bool)
    mask_HW[8:40, 10:60] = True
    mask_HW[16:30, 20:40] = False
    mask_HW[2:5, 70:75] = True
    assert (filled(outline_path(encode(mask_HW)), 48, 80) == mask_HW).all()


def test_an_empty_mask_has_no_outline():
    assert outline_path(None) == ""
    assert outline_path(encode(np.zeros((4, 5)))) == ""


@pytest.mark.parametrize(
    ("rle", "problem"),
    [
        ({"size": [4, 5], "counts": "zzzz"}, "not a compressed COCO"),
        ({"size": [1 << 20, 1 << 20], "counts": "0"}, "pixels"),
        ({"size": [0, 5], "counts": ""}, "pixels"),
    ],
)
def test_a_broken_mask_is_refused(rle: dict, problem: str):
    with pytest.raises(DataError, match=problem):
        outline_path(rle)


def test_visible_runs_are_half_open():
    here = box(0, 0, 2, 2)
    empty = encode(np.zeros((48, 80)))
    assert visible_runs([here, here, None, empty, here]) == [(0, 2), (4, 5)]
    assert visible_runs([]) == []


@pytest.mark.parametrize(
    ("predicted", "gold", "expected"),
    [
        (box(0, 0, 10, 10), box(0, 5, 10, 15), 50 / 150),
        (box(0, 0, 10, 10), box(0, 0, 10, 10), 1.0),
        (box(0, 0, 10, 10), None, 0.0),
        (None, box(0, 0, 10, 10), 0.0),
        (None, None, 1.0),
        (encode(np.zeros((48, 80))), None, 1.0),
        (box(0, 0, 10, 10), box(0, 0, 10, 10, height=24), None),
    ],
)
def test_region_iou(predicted: dict | None, gold: dict | None, expected: float | None):
    assert region_iou(predicted, gold) == expected


def test_an_image_is_kept_once_per_frame_and_size(tmp_path):
    video = small_task(tmp_path / "video").video
    book = ImageBook(FrameCache())
    assert book.add(video, 3, 80, 48, 288) == 0
    assert book.add(video, 3, 80, 48, 480) == 0  # both limits leave the frame as it is
    assert book.add(video, 4, 80, 48, 288) == 1
    assert book.add(video, 3, 80, 48, 40) == 2
    assert len(book.uris) == 3
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in book.uris)


def test_a_missing_frame_has_no_image(tmp_path):
    video = small_task(tmp_path / "video").video
    (tmp_path / "video" / "00003.jpg").unlink()
    book = ImageBook(FrameCache())
    assert book.add(video, 3, 80, 48, 288) is None
    assert book.add(video, 99, 80, 48, 288) is None
    assert book.uris == []
