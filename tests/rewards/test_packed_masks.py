"""Matching of contours within wide radii, which no test video is large enough for, against distances of pixels."""

from __future__ import annotations

import numpy as np
import pytest

from rewards.packed_masks import MaskPair


def edge_pixels(mask_HW: np.ndarray) -> np.ndarray:
    """Return the pixels [N, 2] that differ from a right, lower or lower right neighbour, where there is one."""
    ways = [mask_HW[:-1] != mask_HW[1:], mask_HW[:, :-1] != mask_HW[:, 1:], mask_HW[:-1, :-1] != mask_HW[1:, 1:]]
    return np.unique(np.concatenate([np.argwhere(differs) for differs in ways]), axis=0)


def by_distances(a_HW: np.ndarray, b_HW: np.ndarray, radius: int) -> tuple[int, int, int, int]:
    a, b = edge_pixels(a_HW), edge_pixels(b_HW)
    near = ((a[:, None] - b[None]) ** 2).sum(-1) <= radius**2
    return len(a), len(b), int(near.any(1).sum()), int(near.any(0).sum())


@pytest.mark.parametrize("radius", [62, 63, 64, 65, 90, 127, 128, 129, 200])
def test_a_contour_at_the_end_of_a_row_does_not_reach_the_next_row(radius: int):
    """One mask at the right border, the other at the left border one or more rows below, in a box of whole words."""
    for width in (256, 320):
        for below in (1, 2, 5):
            a_HW, b_HW = np.zeros((2, 12, width), bool)
            a_HW[2:4, width - 3 :] = True
            b_HW[2 + below : 4 + below, :3] = True
            found = MaskPair(a_HW, b_HW, radius).match_contours()
            assert found == by_distances(a_HW, b_HW, radius) and found[2:] == (0, 0)


@pytest.mark.parametrize("radius", [64, 66, 100, 130])
def test_wide_radii_reach_exactly_as_far_as_they_say(radius: int):
    rng = np.random.default_rng(radius)
    reached = set()
    for _ in range(12):
        height, width = rng.integers(20, 90), rng.integers(150, 420)
        a_HW, b_HW = np.zeros((2, height, width), bool)
        top, left = rng.integers(0, height - 4), rng.integers(0, width - 4)
        a_HW[top : top + 3, left : left + 3] = True
        top, left = rng.integers(0, height - 4), rng.integers(0, width - 4)
        b_HW[top : top + 3, left : left + 3] = True
        found = MaskPair(a_HW, b_HW, radius).match_contours()
        assert found == by_distances(a_HW, b_HW, radius)
        reached.add(found[2] > 0)
    assert reached == {True, False}
    for apart in (radius - 1, radius, radius + 1):
        line = np.zeros((2, 3, 2 * radius + 70), bool)
        line[0, :, :10] = line[1, :, : 10 + apart] = True  # the contours are two columns
        _, _, near, _ = MaskPair(line[0], line[1], radius).match_contours()
        assert (near > 0) == (apart <= radius)
