"""Moving Shapes: the files on disk, checked against the pixels and masks on disk."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from configs.schema import EnvConfig
from cot_data.datasets.mevis import load_mevis
from cot_data.moving_shapes.generate import ShapesConfig, write_moving_shapes
from cot_data.moving_shapes.labels import LabelledVideo, load_objects
from cot_data.moving_shapes.predicates import Track, comes_back, moves, only, order, relation, rests, stops, turns
from cot_data.moving_shapes.scene import COLORS, SHADES, Shape
from cot_data.traces.plan import evidence_select
from env.errors import DataError
from env.frames import Video, sample_indices
from env.rle import decode, decode_tracklet
from env.types import Interval, Task

TINY = EnvConfig(strip_frames=8, detail_frames=2, zoom_frames=4)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shapes") / "train"
    write_moving_shapes(out, 90, seed=5)
    return out


@pytest.fixture(scope="module")
def tasks(root: Path) -> list[Task]:
    return list(load_mevis(root))


@pytest.fixture(scope="module")
def videos(root: Path) -> dict[str, LabelledVideo]:
    return {labelled.video.path: labelled for labelled in load_objects(root)}


def files(root: Path) -> dict[str, str]:
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def tracks(labelled: LabelledVideo) -> dict[str, np.ndarray]:
    return {each.caption: decode_tracklet(each.masks, (64, 64)) for each in labelled.objects}


def centre(mask_HW: np.ndarray) -> np.ndarray:
    ys, xs = np.nonzero(mask_HW)
    return np.array([xs.mean(), ys.mean()])


# The files


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_processes(tmp_path: Path) -> None:
    config = ShapesConfig(max_frames=34)
    write_moving_shapes(tmp_path / "a", 64, seed=3, config=config, processes=1)
    write_moving_shapes(tmp_path / "b", 64, seed=3, config=config, processes=2)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_splits_of_two_seeds_share_no_video(root: Path, tmp_path: Path) -> None:
    write_moving_shapes(tmp_path, 40, seed=6)
    train, held_out = files(root / "JPEGImages"), files(tmp_path / "JPEGImages")
    assert not {name.split("/")[0] for name in train} & {name.split("/")[0] for name in held_out}
    assert not set(train.values()) & set(held_out.values())


def test_shares_of_labels_and_lengths(tasks: list[Task]) -> None:
    families = Counter(task.family for task in tasks)
    assert set(families) == {"appearance", "motion", "temporal", "relation", "no_target"}
    assert min(families.values()) >= 0.03 * len(tasks)
    assert 0.30 <= sum(bool(task.explore) for task in tasks) / len(tasks) <= 0.40
    assert {task.explore for task in tasks} == {"", "brief_event", "fine_mark"}
    lengths = [video.num_frames for video in {task.video for task in tasks}]
    assert min(lengths) >= 32 and max(lengths) <= 128 and np.median(lengths) <= 64
    per_video = Counter(task.video.path for task in tasks)
    assert set(per_video.values()) == {3, 4, 5}


def test_a_config_without_a_solution_is_an_error(tmp_path: Path) -> None:
    config = ShapesConfig(max_frames=32, detail_frames=32, explore_share=1.0)
    with pytest.raises(DataError, match="ShapesConfig: no scene with"):
        write_moving_shapes(tmp_path, 1, seed=0, config=config)


def test_colours_are_shared_but_names_are_unique(videos: dict[str, LabelledVideo]) -> None:
    shared = 0
    for labelled in videos.values():
        captions = [each.caption for each in labelled.objects]
        assert 2 <= len(captions) <= 4 and captions == sorted(captions)
        assert len(set(captions)) == len(captions)
        shades, colors = zip(*(caption.split() for caption in captions), strict=True)
        shared += len(set(colors)) < len(captions) and len(set(shades)) < len(captions)
    assert shared >= 0.4 * len(videos)


def test_no_interval_is_a_good_guess(tasks: list[Task]) -> None:
    stays = []
    for task in tasks:
        seen = [t for t, rle in enumerate(task.gold) if rle]
        if seen:
            stays.append((seen[-1] + 1 - seen[0]) / task.video.num_frames)
    assert np.mean(stays) <= 0.7 and np.quantile(stays, 0.25) <= 0.5 and np.quantile(stays, 0.9) >= 0.85


def test_labels_have_the_motion_and_the_marks_of_objects(tasks: list[Task], videos: dict[str, LabelledVideo]) -> None:
    checked = 0
    for task in tasks:
        objects = {each.caption: each for each in videos[task.video.path].objects}
        if task.explore:
            mark = {"brief_event": "flash", "fine_mark": "checkered"}[task.explore]
            assert set(task.evidence) <= set(objects[task.caption].marks[mark])
        if task.family == "motion":
            motion = task.expression.removeprefix("the shape that ")
            assert [each.caption for each in objects.values() if each.motion == motion] == [task.caption]
            checked += 1
    assert checked >= 10


def test_masks_contain_exactly_the_visible_pixels(tasks: list[Task], videos: dict[str, LabelledVideo]) -> None:
    marked = {
        (path, t)
        for path, video in videos.items()
        for each in video.objects
        for times in each.marks.values()
        for t in times
    }
    overlaps = hidden = 0
    for labelled in list(videos.values())[:20]:
        masks = tracks(labelled)
        stacked_NTHW = np.stack(list(masks.values()))
        overlaps += int((stacked_NTHW.sum(axis=0) > 1).sum())
        reader = Video(labelled.video)
        for caption, masks_THW in masks.items():
            shade, color = caption.split()
            paint_3 = np.array(Shape(color, shade, "circle", 1.0, np.zeros((1, 2)), np.ones(1, bool)).paint)
            areas = masks_THW.sum(axis=(1, 2))
            hidden += int(((areas > 0) & (areas < 0.6 * areas.max())).sum())
            for t in np.flatnonzero(areas)[::7]:
                if (labelled.video.path, int(t)) in marked:
                    continue
                off_HW = np.abs(reader.frame(int(t)).astype(int) - paint_3).max(axis=2)
                inner_HW = cv2.erode(masks_THW[t].astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0) > 0
                assert not (inner_HW & (off_HW > 40)).any()  # every pixel of a mask has the colour of its shape,
                assert not (~masks_THW[t] & (off_HW <= 8)).any()  # and no other pixel in the frame has
    assert overlaps == 0 and hidden > 0  # occlusion happens


# Expressions, by brute force over the masks on disk


def test_named_objects_are_present_and_absent_ones_are_not(tasks: list[Task], videos: dict[str, LabelledVideo]) -> None:
    for task in tasks:
        objects = {each.caption: each.masks for each in videos[task.video.path].objects}
        words = task.expression.removeprefix("the ").split()
        if task.family == "no_target":
            assert " ".join(words[:2]) not in objects and not any(task.gold) and task.caption == ""
            near = {word for caption in objects for word in caption.split()}
            assert near & set(words) and words[0] in SHADES and words[1] in COLORS
            continue
        assert objects[task.caption] == task.gold
        if task.family == "appearance" and not task.explore:
            fits = [caption for caption in objects if set(words) - {"shape"} <= set(caption.split())]
            assert fits == [task.caption]


def test_temporal_order_is_clear_by_more_than_the_gap_of_the_strip(
    tasks: list[Task], videos: dict[str, LabelledVideo]
) -> None:
    checked = Counter()
    for task in tasks:
        if task.family != "temporal" or task.explore:
            continue
        objects = videos[task.video.path].objects
        seen = {each.caption: np.flatnonzero([rle is not None for rle in each.masks]) for each in objects}
        gap = int(np.diff(sample_indices(Interval(0, task.video.num_frames), 8)).max())
        kind = task.expression.removeprefix("the shape that ")
        value = {
            "appears first": lambda frames: frames[0],
            "appears last": lambda frames: -frames[0],
            "leaves first": lambda frames: frames[-1],
            "comes back": lambda frames: -int(np.diff(frames).max()),
        }[kind]
        values = {caption: int(value(frames)) for caption, frames in seen.items()}
        mine = values.pop(task.caption)
        if kind == "comes back":
            assert mine <= -7 and all(other >= -2 for other in values.values())
        else:
            assert all(other - mine > gap for other in values.values())
        checked[kind] += 1
    assert len(checked) == 4


def test_masks_show_the_motion_of_the_target_and_of_no_other_shape(
    tasks: list[Task], videos: dict[str, LabelledVideo]
) -> None:
    ways = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
    checked = 0
    for task in tasks:
        way = task.expression.split()[-1]
        if task.family != "motion" or way not in ways:
            continue
        net = {}
        for caption, masks_THW in tracks(videos[task.video.path]).items():
            areas = masks_THW.sum(axis=(1, 2))
            whole = np.flatnonzero(areas >= 0.85 * areas.max())  # occlusion would shift the centre
            net[caption] = (centre(masks_THW[whole[-1]]) - centre(masks_THW[whole[0]])) @ np.array(ways[way])
            if caption == task.caption and len(whole) > 1:
                net[caption] *= (np.flatnonzero(areas)[-1] - np.flatnonzero(areas)[0]) / (whole[-1] - whole[0])
        assert net.pop(task.caption) >= 12
        assert all(other <= 6 for other in net.values())
        checked += 1
    assert checked >= 5


def test_relations_hold_when_both_are_first_visible(tasks: list[Task], videos: dict[str, LabelledVideo]) -> None:
    ways = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}
    checked = 0
    for task in tasks:
        if task.family != "relation":
            continue
        words = task.expression.split()
        other_name = task.expression.split(" the ")[1].split(" one when ")[0]
        masks = tracks(videos[task.video.path])
        other_THW = masks.pop(other_name)
        for caption, masks_THW in masks.items():
            both = np.flatnonzero((masks_THW.sum(axis=(1, 2)) >= 24) & (other_THW.sum(axis=(1, 2)) >= 24))
            if len(both) == 0:
                assert caption != task.caption
                continue
            offset = (centre(masks_THW[both[0]]) - centre(other_THW[both[0]])) @ np.array(ways[words[2]])
            assert offset > 1 if caption == task.caption else offset < 5
        checked += 1
    assert checked >= 20


# Exploration pays


def marked_pixels(task: Task, frame_idx: int, side: int, mark: str) -> int:
    """Pixels of the target that show its mark at the size `side`: white ones of a flash, light and dark of checks."""
    frame = Image.fromarray(Video(task.video).frame(frame_idx))
    shown_HW3 = np.array(frame.resize((side, side), Image.Resampling.BOX)).astype(int)
    rle = task.gold[frame_idx]
    mask_HW = decode(rle) if rle else np.zeros((64, 64), bool)
    cell = 64 // side
    inside_HW = mask_HW.reshape(side, cell, side, cell).all(axis=(1, 3))
    if mark == "brief_event":
        return int((inside_HW & (shown_HW3.min(axis=2) > 150)).sum())
    luma_HW = shown_HW3.sum(axis=2)
    zigzag_HW = np.zeros((side, side), int)  # the second difference, which is small for outlines and textures
    zigzag_HW[1:-1, 1:-1] = 2 * luma_HW[1:-1, 1:-1] - luma_HW[1:-1, :-2] - luma_HW[1:-1, 2:]
    zigzag_HW[1:-1, 1:-1] += 2 * luma_HW[1:-1, 1:-1] - luma_HW[:-2, 1:-1] - luma_HW[2:, 1:-1]
    both_HW = (zigzag_HW > 500) & (np.roll(zigzag_HW, 1, 1) < -500)
    return int((inside_HW & both_HW).sum())


def test_the_first_observation_does_not_show_the_evidence_but_a_zoom_or_key_frame_does(tasks: list[Task]) -> None:
    counts = Counter()
    for task in tasks:
        if not task.explore:
            assert task.evidence == ()
            continue
        mark = task.explore
        whole = Interval(0, task.video.num_frames)
        assert not any(marked_pixels(task, t, 32, mark) for t in sample_indices(whole, TINY.strip_frames))
        details = sample_indices(whole, TINY.detail_frames)
        select = evidence_select(task)
        named = set(task.evidence)
        assert select.key_frame in named and named & set(range(select.interval.start, select.interval.end))
        assert not named & set(details)
        assert marked_pixels(task, select.key_frame, 64, mark) >= 4
        if mark == "brief_event":
            zoom = sample_indices(select.interval, TINY.zoom_frames)
            assert any(marked_pixels(task, t, 32, mark) >= 2 for t in zoom)
            assert len(named) in (2, 3) and not named & set(sample_indices(whole, TINY.strip_frames))
        else:
            # Not in all of them, because `marked_pixels` does not work at the border.
            assert sum(marked_pixels(task, t, 64, mark) >= 4 for t in named) >= 3
            assert not any(marked_pixels(task, t, 32, mark) for t in named)
        counts[mark] += 1
    assert min(counts["brief_event"], counts["fine_mark"]) >= 20


def test_a_flash_leaves_the_colour_visible(tasks: list[Task]) -> None:
    """A vision token that shows the flash shows the colour too, so that it identifies the shape."""
    whole, both = 0, 0
    for task in tasks:
        if task.explore != "brief_event":
            continue
        shade, color = task.caption.split()
        paint_3 = np.array(Shape(color, shade, "circle", 8.0, np.zeros((1, 2)), np.ones(1, bool)).paint)
        for t in task.evidence:
            shown_HW3 = Video(task.video).frame(t).astype(float)
            white_HW = shown_HW3.min(axis=2) > 220
            painted_HW = np.abs(shown_HW3 - paint_3).max(axis=2) < 40
            mask_HW = decode(task.gold[t] or {})
            white, painted = (
                (mask_HW & each_HW).reshape(8, 8, 8, 8).sum(axis=(1, 3)) for each_HW in (white_HW, painted_HW)
            )
            marked = white >= 4
            whole += marked.sum()
            both += (marked & (painted >= 4)).sum()
    assert both >= 0.9 * whole > 100


def test_only_the_target_has_the_mark_while_other_shapes_are_visible(
    tasks: list[Task], videos: dict[str, LabelledVideo]
) -> None:
    for task in tasks:
        if not task.explore:
            continue
        select = evidence_select(task)
        masks = tracks(videos[task.video.path])
        assert sum(masks_THW[select.key_frame].sum() >= 24 for masks_THW in masks.values()) >= 2
        rivals = [other for other in tasks if other.video == task.video and other.explore == task.explore]
        times = [each for other in rivals if other != task for each in other.evidence]
        assert not any(t in select.interval for t in times)


# Predicates, on tracks made by hand


def track(xs: list[float], ys: list[float] | None = None, seen: list[int] | None = None) -> Track:
    count = len(xs)
    centers_T2 = np.stack([xs, ys or [32.0] * count], axis=1)
    area_T = np.array(seen if seen is not None else [100] * count)
    return Track(Shape("red", "dark", "circle", 10.0, centers_T2, area_T > 0), area_T)


GOES_LEFT = track([50.0 - 2 * t for t in range(20)])
STOPS = track([50.0 - 2 * min(t, 10) for t in range(20)])
TURNS = track([10.0 + 2 * (t if t < 10 else 20 - t) for t in range(20)])
STILL = track([30.0] * 20)
DRIFTS = track([30.0 + 0.3 * t for t in range(20)])


@pytest.mark.parametrize(
    ("holds", "yes", "no", "unclear"),
    [
        (lambda each: moves(each, "left"), GOES_LEFT, STILL, TURNS),
        (lambda each: moves(each, "right"), track([2.0 * t for t in range(20)]), STOPS, DRIFTS),
        (stops, STOPS, GOES_LEFT, track([50.0 - 2 * min(t, 17) for t in range(20)])),
        (turns, TURNS, STOPS, track([10.0 + 2 * (t if t < 16 else 32 - t) for t in range(20)])),
        (rests, STILL, GOES_LEFT, DRIFTS),
        (
            comes_back,
            track([30.0] * 20, seen=[90] * 6 + [0] * 6 + [90] * 8),
            STILL,
            track([30.0] * 20, seen=[90] * 6 + [0] * 3 + [90] * 11),
        ),
    ],
)
def test_predicates_say_yes_no_or_unclear(holds, yes: Track, no: Track, unclear: Track) -> None:
    assert (holds(yes), holds(no), holds(unclear)) == (True, False, None)


def test_a_relation_must_hold_when_both_are_first_visible_and_first_shown() -> None:
    left, right = track([20.0] * 20), track([40.0] * 20)
    assert relation(left, right, "left", (0, 10, 19)) is True
    assert relation(right, left, "left", (0, 10, 19)) is False
    assert relation(left, track([23.0] * 20), "left", (0, 10, 19)) is None  # nearly level
    crossing = track([60.0 - 4 * t for t in range(20)])
    assert relation(left, crossing, "left", (0, 10, 19)) is True
    assert relation(left, crossing, "left", (15, 19)) is None  # they have changed sides before the first shown frame
    assert relation(left, track([40.0] * 20, seen=[0] * 20), "left", (0, 19)) is False


def test_an_order_needs_a_margin_and_only_one_yes_makes_a_target() -> None:
    assert order([3, 9, 20], 6) == [True, False, False]
    assert order([3, 8, 20], 6) == [None, False, False]
    assert only([False, True, False]) == 1
    assert only([False, True, None]) is None
    assert only([True, True, False]) is None
    assert only([False, False]) is None
