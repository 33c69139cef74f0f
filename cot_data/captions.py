"""Captions for a small cold start: which shapes a frame shows, and where.

Needs the labels of Moving Shapes. It teaches a small model to see before it has to reason about time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.schema import EnvConfig
from cot_data.expressions import SEEN_AREA
from cot_data.fields import field, read_json
from cot_data.mevis import LABELS, MASKS, META, Gold, video_of
from cot_data.wording import place_of
from env.episode import VideoSegEnv
from env.errors import DataError
from env.frames import frame_refs
from env.rle import decode
from env.types import RLE, Action, Malformed, Observation, StopReason, Task, Trajectory, Turn, VideoRef


@dataclass(frozen=True)
class LabelledVideo:
    """A video and every object in it: (caption, masks [T])."""

    video: VideoRef
    objects: tuple[tuple[str, tuple[RLE | None, ...]], ...]


def load_objects(root: Path) -> list[LabelledVideo]:
    """The videos of a Moving Shapes folder with all of their objects; DataError where the labels are missing."""
    root = Path(root).absolute()
    videos = field(read_json(root / META), "videos", dict, str(root / META))
    labels = field(read_json(root / LABELS), "videos", dict, str(root / LABELS))
    gold = Gold(root / MASKS)
    out = []
    for name, record in videos.items():
        video = video_of(root, name, record, f"{root / META}: videos[{name!r}]")
        where = f"{root / LABELS}: videos[{name!r}]"
        objects = field(field(labels, name, dict, str(root / LABELS)), "objects", dict, where)
        out.append(
            LabelledVideo(
                video, tuple((caption, gold.of((anno_id,), video, where)) for anno_id, caption in objects.items())
            )
        )
    return out


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
    for t in sorted(int(t) for t in rng.choice(video.num_frames, min(num_frames, video.num_frames), replace=False)):
        role, pixels = ("strip", config.strip_pixels) if rng.random() < 0.5 else ("detail", config.detail_pixels)
        ref = frame_refs(video, [t], role, pixels, config.size_factor)[0]
        observation = Observation(("" if turns else "what is where? |", f" {t}", ref))
        turns.append(Turn(observation, Action(describe(labelled, t)), Malformed("no_seg", "a caption")))
    task = _task(video, f"caption{number}")
    return Trajectory(f"-1/{task.task_id}/0", task, -1, 0, turns, StopReason.ANSWERED)


def recall_trajectories(
    videos: list[LabelledVideo], config: EnvConfig, rng: np.random.Generator, count: int, num_asked: int = 5
) -> list[Trajectory]:
    """`count` first observations, each followed by what `num_asked` of its frames show, one after the other.

    Here a frame must be found by its index among all others, and the next index by the one before, as in a dialogue.
    """
    if not videos:
        raise DataError("captions", "expected labelled videos, found none")
    return [_recall(videos[int(rng.integers(len(videos)))], config, rng, num_asked, i) for i in range(count)]


def _recall(
    labelled: LabelledVideo, config: EnvConfig, rng: np.random.Generator, num_asked: int, number: int
) -> Trajectory:
    task = _task(labelled.video, f"recall{number}")
    observation = VideoSegEnv(task, config).first_observation()
    shown = sorted({frame.frame_idx for frame in observation.frames})
    start = int(rng.integers(max(1, len(shown) - num_asked + 1)))
    text = " ".join(f"{t}: {describe(labelled, t)}." for t in shown[start : start + num_asked])
    turn = Turn(observation, Action(text), Malformed("no_seg", "a caption"))
    return Trajectory(f"-1/{task.task_id}/0", task, -1, 0, [turn], StopReason.ANSWERED)


def _task(video: VideoRef, name: str) -> Task:
    return Task(f"{Path(video.root).name}/{Path(video.path).name}/{name}", video, "what is where?", ())


def describe(labelled: LabelledVideo, frame_idx: int) -> str:
    """What a frame shows, in alphabetical order: "blue square center, red circle upper left", or "nothing".

    An order of names, not of places: whether there is anything blue is easier to learn than what lies leftmost.
    """
    found = []
    for caption, masks in labelled.objects:
        rle = masks[frame_idx]
        mask_HW = decode(rle) if rle else np.zeros(0)
        if mask_HW.sum() >= SEEN_AREA:
            ys, xs = np.nonzero(mask_HW)
            center = (float(xs.mean()) + 0.5, float(ys.mean()) + 0.5)
            found.append(f"{caption} {place_of(center, labelled.video.height, labelled.video.width)}")
    return ", ".join(sorted(found)) or "nothing"
