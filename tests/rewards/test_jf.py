"""J and F against the official DAVIS code's numbers on real clips, and the crop against the uncropped definition."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from rewards.jf import boundary_f, region_j, statistics, tracklet_jf

CLIPS = ("blackswan", "breakdance", "car-shadow", "dog", "dogs-jump", "libby")


def _labels(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])


@pytest.mark.parametrize("clip", CLIPS)
def test_equals_the_official_davis_code(clips: Path, clip: str):
    official = json.loads((clips / "oracle_davis_official.json").read_text())["clips"][clip]
    gold, pred = _labels(clips / clip / "masks"), _labels(clips / clip / "pred_osvos")
    assert official
    for number, expected in official.items():
        j_T, f_T = tracklet_jf(gold == int(number), pred == int(number))
        for name, values_T in (("J", j_T), ("F", f_T)):
            # Frames are published with 6 decimals, aggregates with all.
            assert np.abs(values_T - expected[f"per_frame_{name}"]).max() <= 0.5e-6 + 1e-9
            for part, kept_T in (("all_frames", values_T), ("semi_supervised_1_to_-1", values_T[1:-1])):
                aggregates = [expected[part][f"{name}_{kind}"] for kind in ("mean", "recall", "decay")]
                assert np.abs(np.array(statistics(kept_T)) - aggregates).max() < 1e-9, (number, part, name)
        assert abs((j_T.mean() + f_T.mean()) / 2 - expected["all_frames"]["JF"]) < 1e-9


def _uncropped_f(gold_HW: np.ndarray, pred_HW: np.ndarray) -> float:
    """The definition, pixel by pixel and by distances: no crop, no dilation."""
    edges = [_edge_pixels(mask_HW) for mask_HW in (gold_HW, pred_HW)]
    if not len(edges[0]) or not len(edges[1]):
        return float(len(edges[0]) == len(edges[1]))
    radius = math.ceil(0.008 * math.sqrt(gold_HW.shape[0] ** 2 + gold_HW.shape[1] ** 2))
    near = ((edges[0][:, None] - edges[1][None]) ** 2).sum(-1) <= radius**2
    recall, precision = near.any(1).mean(), near.any(0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _edge_pixels(mask_HW: np.ndarray) -> np.ndarray:
    height, width = mask_HW.shape
    pixels = []
    for y in range(height):
        for x in range(width):
            others = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            inside = [mask_HW[v, u] for v, u in others if v < height and u < width]
            if any(value != mask_HW[y, x] for value in inside):
                pixels.append((y, x))
    return np.array(pixels, int).reshape(-1, 2)


def test_cropped_f_equals_the_definition_on_random_masks():
    rng = np.random.default_rng(0)
    for case in range(150):
        height, width = rng.integers(1, 60, 2)
        gold_HW, pred_HW = (_random_mask(rng, height, width) for _ in range(2))
        if case % 3 == 0:  # near each other, so that some but not all contour pixels match
            pred_HW = np.roll(gold_HW, tuple(rng.integers(-2, 3, 2)), (0, 1))
        assert boundary_f(gold_HW, pred_HW) == pytest.approx(_uncropped_f(gold_HW, pred_HW), abs=1e-12)


def _random_mask(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise, a blob that may cross the border, nothing, or everything."""
    kind = rng.integers(6)
    if kind < 2:
        return np.full((height, width), bool(kind))
    if kind == 2:
        return rng.random((height, width)) < 0.1
    canvas = np.zeros((height, width), np.uint8)
    centre = (int(rng.integers(width)), int(rng.integers(height)))
    cv2.circle(canvas, centre, int(rng.integers(1, 15)), 1, -1)
    return canvas > 0


def _square(top: int, left: int, side: int, height: int = 40, width: int = 40) -> np.ndarray:
    mask_HW = np.zeros((height, width), bool)
    mask_HW[top : top + side, left : left + side] = True
    return mask_HW


EMPTY, FULL = np.zeros((40, 40), bool), np.ones((40, 40), bool)


@pytest.mark.parametrize(
    ("gold_HW", "pred_HW", "j", "f"),
    [
        (EMPTY, EMPTY, 1.0, 1.0),
        (EMPTY, _square(5, 5, 10), 0.0, 0.0),
        (_square(5, 5, 10), EMPTY, 0.0, 0.0),
        (_square(5, 5, 10), _square(5, 5, 10), 1.0, 1.0),
        (FULL, FULL, 1.0, 1.0),
        (FULL, _square(0, 0, 20), 0.25, 0.0),  # a full frame has no contour
        (_square(0, 0, 10), _square(0, 5, 10), 50 / 150, None),
        (_square(10, 10, 10), _square(10, 11, 10), 90 / 110, 1.0),  # off by one pixel: within the tolerance
        (_square(0, 0, 5), _square(30, 30, 5), 0.0, 0.0),
    ],
)
def test_j_and_f_by_hand(gold_HW: np.ndarray, pred_HW: np.ndarray, j: float, f: float | None):
    assert region_j(gold_HW, pred_HW) == j
    if f is not None:
        assert boundary_f(gold_HW, pred_HW) == f


def test_statistics_by_hand():
    # Borders of 9 frames are 1, 3, 5, 7, 9: the first and last quarter hold three frames each.
    assert statistics(np.array([0.9, 0.6, 0.6, 0.5, 0.5, 0.5, 0.3, 0.3, 0.0])) == pytest.approx((4.2 / 9, 3 / 9, 0.5))
    assert statistics(np.array([0.7])) == pytest.approx((0.7, 1.0, 0.0))
    mean, recall, decay = statistics(np.linspace(1, 0, 401))  # beyond 8 bits: quarters of 101 frames
    assert (mean, recall, decay) == pytest.approx((0.5, 200 / 401, 0.75))


def test_masks_of_other_types_and_sizes_are_refused():
    with pytest.raises(ValueError, match="two bool masks of one shape"):
        region_j(EMPTY, np.zeros((40, 41), bool))
    with pytest.raises(ValueError, match="uint8"):
        boundary_f(EMPTY, np.zeros((40, 40), np.uint8))
    with pytest.raises(ValueError):
        tracklet_jf(np.stack([EMPTY, EMPTY]), EMPTY[None])
