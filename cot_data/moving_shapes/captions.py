"""Write captions for the cold start of a small model: the shapes that each frame shows.

They need the labels of Moving Shapes. A small model learns to recognise shapes from them before it has to reason about
time.
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
    """Return captioned sequences in the form of trajectories, so that the collator of dialogues can train on them.

    Each turn shows one frame, small or large, and its text names the objects in it. There are no decisions. The text
    follows its frame directly: a model that does not recognise shapes yet should not have to find a frame by its index.

    Args:
        videos: labelled videos, at least one.
        config: pixels of small (strip) and large (detail) frames.
        rng: samples videos, frames and sizes.
        count: number of sequences.
        num_frames: turns of each sequence.

    Returns:
        `count` trajectories.

    Raises:
        DataError: there are no videos.
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
    """`count` frames in order, a quarter of them with a mark if there are any, because marks are rare otherwise."""
    marked = [t for each in labelled.objects for frames in each.marks.values() for t in frames]
    picked = {int(t) for t in rng.choice(marked, count // 4)} if marked else set()
    every = rng.permutation(labelled.video.num_frames)
    return sorted([*picked, *[int(t) for t in every if int(t) not in picked][: count - len(picked)]])


def _task(video: VideoRef, name: str) -> Task:
    return Task(f"{Path(video.root).name}/{Path(video.path).name}/{name}", video, "who is there?", ())


def describe(objects: Sequence[LabelledObject], frame_idx: int, is_large: bool = False) -> str:
    """Return the names of what a frame shows: "dark blue flash light red" (dark blue flashes), or "nothing".

    Names come in the order of `objects`, not of places: it is easier to learn whether there is anything blue than what
    is leftmost. A mark follows the name of the object that has it.

    Args:
        objects: all objects of the video, sorted by name.
        frame_idx: the frame.
        is_large: whether the frame is shown large, so that checks are visible.

    Returns:
        Names and marks, separated by spaces.
    """
    found = []
    for each in objects:
        if each.mask(frame_idx) is not None:
            found.append(" ".join((each.caption, *visible_marks(each, frame_idx, is_large))))
    return " ".join(found) or "nothing"


def visible_marks(each: LabelledObject, frame_idx: int, is_large: bool) -> list[str]:
    """Return the visible marks of an object in a frame.

    Args:
        each: the object.
        frame_idx: the frame.
        is_large: whether the frame is shown large; checks are visible only then.

    Returns:
        Members of `scene.MARKS`, sorted.
    """
    return [mark for mark in each.marks_at(frame_idx) if is_large or mark != "checkered"]
