"""Generate Moving Shapes, a synthetic benchmark in the MeViS layout.

It writes `JPEGImages/`, `meta_expressions.json`, `mask_dict.json`, and also `moving_shapes.json`, with labels for every
object and expression. The same arguments give the same bytes. The name of a video contains the seed, so that splits
with different seeds share no video.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cot_data.moving_shapes.expressions import ShapeExpression, absent, motion_of, plain_expressions
from cot_data.moving_shapes.marks import add_marks
from cot_data.moving_shapes.predicates import Track
from cot_data.moving_shapes.render import background, draw_scene, scene_masks
from cot_data.moving_shapes.scene import Scene, sample_num_frames, sample_scene
from env.errors import DataError
from env.files import machine_errors, make_folder, sync_all, write_text
from env.frames import sample_indices
from env.rle import encode
from env.types import RLE, Interval

MAX_OBJECTS = 8  # anno ids of video v are v * MAX_OBJECTS, ...
MIN_EXPRESSIONS, MAX_EXPRESSIONS = 3, 5  # of one video
MAX_TRIES = 400  # scenes sampled for one video; the default config needs at most six


@dataclass(frozen=True)
class ShapesConfig:
    """The settings of the generator."""

    size: int = 64
    """Side of a frame in pixels."""
    min_frames: int = 32
    """Shortest video."""
    max_frames: int = 128
    """Longest video."""
    long_share: float = 0.1
    """Share of videos that are longer than a quarter of that range; the others stay below it."""
    strip_frames: int = 8
    """Low-resolution frames of the first observation: no brief event shows in them."""
    detail_frames: int = 2
    """High-resolution frames of the first observation: neither a brief event nor a fine mark shows in them."""
    explore_share: float = 0.35
    """Share of tasks whose evidence is not in the first observation."""
    no_target_share: float = 0.07
    """Share of tasks whose expression nothing in the video matches."""
    palette: int = 3
    """Colours of one video: with fewer colours than shapes, the colour alone is ambiguous."""


@dataclass(frozen=True)
class Video:
    """One generated video and its entries in the three JSON files."""

    name: str
    meta: dict[str, Any]
    masks: dict[str, list[RLE | None]]
    labels: dict[str, Any]


def write_moving_shapes(
    out: Path,
    num_videos: int,
    seed: int,
    config: ShapesConfig | None = None,
    processes: int = 2,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write a data set.

    Args:
        out: the folder to write.
        num_videos: number of videos.
        seed: of everything random; give each split another one.
        config: settings of the generator, the defaults if None.
        processes: worker processes; small data sets use none.
        progress: called with the number of finished videos.

    Raises:
        DataError: no scene satisfies the config.
    """
    out = Path(out)
    config = config or ShapesConfig()
    make_folder(out / "JPEGImages")
    make = partial(make_video, out, seed, config)
    videos = []
    if processes > 1 and num_videos >= 64:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            for video in pool.map(make, range(num_videos), chunksize=16):
                videos.append(video)
                if progress:
                    progress(len(videos))
    else:
        for video_idx in range(num_videos):
            videos.append(make(video_idx))
            if progress:
                progress(len(videos))
    sync_all()
    _dump(out / "mask_dict.json", {anno_id: rles for video in videos for anno_id, rles in video.masks.items()})
    labels = {video.name: video.labels for video in videos}
    _dump(out / "moving_shapes.json", {"version": 2, "seed": seed, "videos": labels})
    # Last, since a data set is what has this file: without it nobody takes an unfinished one for a whole one.
    _dump(out / "meta_expressions.json", {"videos": {video.name: video.meta for video in videos}})


def _dump(path: Path, value: dict[str, Any]) -> None:
    write_text(path, json.dumps(value, separators=(",", ":")))


def make_video(out: Path, seed: int, config: ShapesConfig, video_idx: int) -> Video:
    """Sample and render one video, and write its frames.

    Args:
        out: folder of the data set.
        seed: of the data set.
        config: settings of the generator.
        video_idx: number of the video; with the seed it determines everything random.

    Returns:
        The video's entries in the JSON files.
    """
    rng = np.random.default_rng([seed, video_idx])
    scene, masks_NTHW, chosen = _sample_tasks(rng, config)
    frames_THW3 = draw_scene(scene, background(rng, scene.size))
    name = f"s{seed}_{video_idx:05d}"
    folder = out / "JPEGImages" / name
    with machine_errors(folder):
        folder.mkdir(exist_ok=True)
        for t, frame_HW3 in enumerate(frames_THW3):
            Image.fromarray(frame_HW3).save(folder / f"{t:05d}.jpg", quality=95, subsampling=0)
    anno_ids = [video_idx * MAX_OBJECTS + i for i in range(len(scene.shapes))]
    return Video(
        name,
        _meta(scene, chosen, anno_ids, video_idx),
        {str(a): _tracklet(masks_THW) for a, masks_THW in zip(anno_ids, masks_NTHW, strict=True)},
        _labels(scene, masks_NTHW, chosen, anno_ids),
    )


def _tracklet(masks_THW: np.ndarray) -> list[RLE | None]:
    """COCO RLE of every frame, None where the mask is empty."""
    return [encode(mask_HW) if mask_HW.any() else None for mask_HW in masks_THW]


def _meta(scene: Scene, chosen: list[ShapeExpression], anno_ids: list[int], video_idx: int) -> dict[str, Any]:
    expressions = {}
    for exp_id, expression in enumerate(chosen):
        targets = [] if expression.target is None else [expression.target]
        expressions[str(exp_id)] = {
            "exp": expression.text,
            "obj_id": targets,
            "anno_id": [anno_ids[target] for target in targets],
        }
    return {
        "frames": [f"{t:05d}" for t in range(scene.num_frames)],
        "vid_id": video_idx,
        "height": scene.size,
        "width": scene.size,
        "expressions": expressions,
    }


def _labels(scene: Scene, masks_NTHW: np.ndarray, chosen: list[ShapeExpression], anno_ids: list[int]) -> dict[str, Any]:
    """Labels of every object (caption, motion, marks) and every expression (family, evidence)."""
    tracks = _tracks(scene, masks_NTHW)
    return {
        "objects": {
            str(a): _object_label(scene, idx, track)
            for idx, (a, track) in enumerate(zip(anno_ids, tracks, strict=True))
        },
        "expressions": {
            str(exp_id): {
                "family": each.family,
                "explore": each.explore,
                "evidence": list(each.evidence),
                "caption": "" if each.target is None else scene.shapes[each.target].caption,
            }
            for exp_id, each in enumerate(chosen)
        },
    }


def _object_label(scene: Scene, shape_idx: int, track: Track) -> dict[str, Any]:
    marks: dict[str, list[int]] = {}
    for mark in scene.marks:
        if mark.shape_idx == shape_idx:
            marks.setdefault(mark.kind, []).extend(mark.frames)
    return {"caption": track.shape.caption, "motion": motion_of(track), "marks": marks}


def _tracks(scene: Scene, masks_NTHW: np.ndarray) -> list[Track]:
    areas_NT = masks_NTHW.sum(axis=(2, 3))
    return [Track(shape, area_T) for shape, area_T in zip(scene.shapes, areas_NT, strict=True)]


def _sample_tasks(rng: np.random.Generator, config: ShapesConfig) -> tuple[Scene, np.ndarray, list[ShapeExpression]]:
    """Sample scenes until one has enough visible shapes, and as many expressions as the config asks for."""
    num_frames = sample_num_frames(rng, config.min_frames, config.max_frames, config.long_share)
    whole = Interval(0, num_frames)
    strip = sample_indices(whole, config.strip_frames)
    detail = sample_indices(whole, config.detail_frames)
    count = int(rng.integers(MIN_EXPRESSIONS, MAX_EXPRESSIONS + 1))
    num_explore = int(count * config.explore_share + rng.random())
    num_absent = int(count * config.no_target_share + rng.random())
    for _ in range(MAX_TRIES):
        scene = sample_scene(rng, num_frames, config.size, config.palette)
        masks_NTHW, full_NT = scene_masks(scene)
        tracks = _tracks(scene, masks_NTHW)
        if not _well_visible(tracks, full_NT):
            continue
        marks, chosen = add_marks(rng, masks_NTHW, tracks, (strip, detail), num_explore)
        chosen += _pick(rng, absent(tracks), num_absent)
        chosen += _pick(rng, plain_expressions(tracks, strip), count - num_explore - num_absent)
        if len(chosen) == count:
            order = rng.permutation(count)
            return replace(scene, marks=tuple(marks)), masks_NTHW, [chosen[i] for i in order]
    raise DataError("ShapesConfig", f"no scene with {num_explore} explore tasks in {MAX_TRIES} tries: {config}")


def _well_visible(tracks: list[Track], full_NT: np.ndarray) -> bool:
    """Whether every shape is mostly visible: at first, at last, and in 60 % of the frames in which it is present."""
    for track, full_T in zip(tracks, full_NT, strict=True):
        there = np.flatnonzero(full_T)
        clear = track.area_T[there] > 0.5 * full_T[there]
        if clear.mean() < 0.6 or not (clear[0] and clear[-1]):
            return False
    return True


def _pick(rng: np.random.Generator, expressions: list[ShapeExpression], count: int) -> list[ShapeExpression]:
    """Sample up to `count` expressions: first a family, then one of its members."""
    left, picked = list(expressions), []
    while left and len(picked) < count:
        family = str(rng.choice(sorted({each.family for each in left})))
        of_family = [each for each in left if each.family == family]
        picked.append(of_family[int(rng.integers(len(of_family)))])
        left.remove(picked[-1])
    return picked
