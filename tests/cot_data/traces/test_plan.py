"""The zooms of a trace: the widest gap first, none for a view that is hardly larger, none for a gap of one frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from configs.schema import EnvConfig
from cot_data.traces.candidates import build_scene
from cot_data.traces.plan import EXTRA_ZOOM_PROBABILITY, MARGIN, plan_zooms
from env.types import Interval, Select
from tests.helpers.cot_parts import Box, boxes, hand_task

BOX: Box = (40, 40, 20, 20)
UNEVEN = EnvConfig(strip_frames=4, detail_frames=3, zoom_frames=3)  # of 41 frames it shows 0, 13, 20, 27 and 40
ZOOMS, STAYS = (
    next(seed for seed in range(99) if (np.random.default_rng(seed).random() < EXTRA_ZOOM_PROBABILITY) is zooms)
    for zooms in (True, False)
)


def planned(visible: range, config: EnvConfig, frames: int = 41, seed: int = STAYS) -> list[tuple[str, Select]]:
    task = hand_task("a white dog", boxes(dict.fromkeys(visible, BOX), frames))
    zooms = plan_zooms(build_scene(task), config, np.random.default_rng(seed))
    return [(zoom.reason, zoom.select) for zoom in zooms]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (range(5, 23), [("entry", Select(Interval(1, 14), 13)), ("exit", Select(Interval(20, 27), 20))]),
        (range(16, 34), [("exit", Select(Interval(27, 40), 27)), ("entry", Select(Interval(14, 21), 20))]),
        (range(23), [("exit", Select(Interval(20, 27), 20)), ("exit", Select(Interval(20, 23), 20))]),
        (range(30), [("exit", Select(Interval(27, 40), 27)), ("exit", Select(Interval(27, 33), 27))]),
    ],
)
def test_the_widest_gap_is_zoomed_first(visible: range, expected: list[tuple[str, Select]]):
    assert planned(visible, UNEVEN) == expected
    assert planned(visible, replace(UNEVEN, max_turns=2)) == expected[:1]


@pytest.mark.parametrize(("frames", "num_zooms"), [(9, 0), (13, 1)])
def test_a_gap_of_one_hidden_frame_is_not_searched(frames: int, num_zooms: int):
    """Of five shown frames, every second or every third is hidden twice or once in between."""
    config = EnvConfig(strip_frames=5, detail_frames=0)
    assert len(planned(range(frames // 2 + 1), config, frames)) == num_zooms


@pytest.mark.parametrize(("frames", "num_zooms"), [(101, 1), (126, 0)])
def test_a_long_video_leaves_wider_gaps_unsearched(frames: int, num_zooms: int):
    """Of 26 shown frames of 101, three are hidden between two, but 4 % are 4; of 21 of 101, four are."""
    shown = EnvConfig(strip_frames=21 if frames == 101 else 26, detail_frames=0)
    gap = (frames - 1) // (shown.strip_frames - 1) - 1
    assert gap == 4 and (gap >= round(0.04 * frames)) is bool(num_zooms)
    assert len(planned(range(frames // 2 + 1), shown, frames)) == num_zooms


@pytest.mark.parametrize(
    ("strip", "detail", "key", "zooms"),
    [
        (1000, 500, 1400, False),  # 1.4 times as large as in the strip
        (1000, 500, 1500, True),
        (500, 1000, 1400, False),  # as in the large frames
        (500, 1000, 1500, True),
        (1000, 1000, 1499, False),
        (200, 200, 1000, True),
    ],
)
def test_a_larger_view_has_to_be_half_as_large_again(strip: int, detail: int, key: int, zooms: bool):
    config = replace(UNEVEN, strip_pixels=strip, detail_pixels=detail, key_pixels=key)
    wanted = [("close", Select(Interval(0, MARGIN + 1), 0))] if zooms else []
    assert planned(range(41), config, seed=ZOOMS) == wanted
    assert planned(range(41), config, seed=STAYS) == []


def test_strip_frames_alone_count_too():
    config = replace(UNEVEN, detail_frames=0, strip_pixels=1000, key_pixels=1400)
    assert planned(range(41), config, seed=ZOOMS) == []
    assert len(planned(range(41), replace(config, key_pixels=1500), seed=ZOOMS)) == 1
