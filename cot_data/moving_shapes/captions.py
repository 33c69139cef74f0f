"""Captions for a small cold start: which shapes a frame shows.

Needs the labels of Moving Shapes. It teaches a small model to see before it has to reason about time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from configs.schema import EnvConfig
from cot_data.moving_shapes.labels import LabelledObject, LabelledVideo
from env.errors import DataError
from env.frames import frame_refs
from env.types import Action, Malformed, Observation, StopReason, Task, Trajectory, Turn, VideoRef


def caption_trajectories(
    videos: list[LabelledVideo], config: EnvConfig, rng: np.random.Generator, count: int, num_frames: int = 8
) -> list[Trajectory]:
    """`count` sequences of `num_frames` turns, each of which shows one frame, small or large, and names what is in it.

    They look like trajectories, so that the collator of dialogues trains them; there is no decision in them. A text
    follows its frame at once: a model that cannot see yet need not learn to look frames up by their index as well.
    """
    if not videos:
        raise DataError("captions", "expected labelled videos, found none")
    return [_sequence(videos[int(rng.integers(len(videos)))], config, rng, num_frames, i) for i in range(count)]


def _sequence(
    labelled: LabelledVideo, config: EnvConfig, rng: np.random.Generator, num_frames: int, number: int
) -> Trajectory:
    video = labelled.video
    turns = []
    for t in _some_frames(labelled, rng, num_frames):
        role, pixels = ("strip", config.strip_pixels) if rng.random() < 0.5 else ("detail", config.detail_pixels)
        ref = frame_refs(video, [t], role, pixels, config.size_factor)[0]
        observation = Observation(("" if turns else "who is there? |", f" {t}", ref))
        text = describe(labelled.objects, t, is_large=role == "detail")
        turns.append(Turn(observation, Action(text), Malformed("no_seg", "a caption")))
    task = _task(video, f"caption{number}")
    return Trajectory(f"-1/{task.task_id}/0", task, -1, 0, turns, StopReason.ANSWERED)


def _some_frames(labelled: LabelledVideo, rng: np.random.Generator, count: int) -> list[int]:
    """`count` frames in order, a quarter of them such that a mark shows, if there are any: marks are rare otherwise."""
    marked = [t for each in labelled.objects for frames in each.marks.values() for t in frames]
    picked = {int(t) for t in rng.choice(marked, count // 4)} if marked else set()
    every = rng.permutation(labelled.video.num_frames)
    return sorted([*picked, *[int(t) for t in every if int(t) not in picked][: count - len(picked)]])


def _task(video: VideoRef, name: str) -> Task:
    return Task(f"{Path(video.root).name}/{Path(video.path).name}/{name}", video, "who is there?", ())


def describe(objects: Sequence[LabelledObject], frame_idx: int, is_large: bool = False) -> str:
    """What a frame shows, in the order of `objects`: "dark blue flash light red" (dark blue flashes), or "nothing".

    An order of names, not of places: whether there is anything blue is easier to learn than what lies leftmost. A mark
    follows its name, which says where to look for it.
    """
    found = []
    for each in objects:
        if each.mask(frame_idx) is not None:
            found.append(" ".join((each.caption, *visible_marks(each, frame_idx, is_large))))
    return " ".join(found) or "nothing"


def visible_marks(each: LabelledObject, frame_idx: int, is_large: bool) -> list[str]:
    """The marks an object wears in a frame; checks can only be seen in a large one."""
    return [mark for mark in each.marks_at(frame_idx) if is_large or mark != "checkered"]
