"""Single-frame captioning for a small cold start: which shapes a frame shows, and where.

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
from env.errors import DataError
from env.frames import frame_refs
from env.types import RLE, Action, FrameRef, Malformed, Observation, StopReason, Task, Trajectory, Turn, VideoRef
from rewards.rle import decode


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
    """`count` sequences of `num_frames` large frames and the text that names what each one shows.

    They look like one-turn trajectories, so that the collator of dialogues trains them; there is no decision in them.
    """
    if not videos:
        raise DataError("captions", "expected labelled videos, found none")
    return [_sequence(videos[int(rng.integers(len(videos)))], config, rng, num_frames, i) for i in range(count)]


def _sequence(
    labelled: LabelledVideo, config: EnvConfig, rng: np.random.Generator, num_frames: int, number: int
) -> Trajectory:
    video = labelled.video
    count = min(num_frames, video.num_frames)
    indices = sorted(int(t) for t in rng.choice(video.num_frames, size=count, replace=False))
    refs = frame_refs(video, indices, "detail", config.detail_pixels, config.size_factor)
    parts: list[str | FrameRef] = ["what is where? |"]
    for ref in refs:
        text = f" {ref.frame_idx}"
        parts = [*parts[:-1], str(parts[-1]) + text] if len(parts) == 1 else [*parts, text]
        parts.append(ref)
    text = " ".join(f"{t}: {describe(labelled, t)}." for t in indices)
    name = video.path.split("/", 1)[1]
    task = Task(f"{Path(video.root).name}/{name}/caption{number}", video, "what is where?", ())
    turn = Turn(Observation(tuple(parts)), Action(text), Malformed("no_seg", "a caption"))
    return Trajectory(f"-1/{task.task_id}/0", task, -1, 0, [turn], StopReason.ANSWERED)


def describe(labelled: LabelledVideo, frame_idx: int) -> str:
    """What a frame shows, from left to right: "red circle upper left, blue square center", or "nothing"."""
    found = []
    for caption, masks in labelled.objects:
        rle = masks[frame_idx]
        if rle is None:
            continue
        mask_HW = decode(rle)
        if mask_HW.sum() >= SEEN_AREA:
            ys, xs = np.nonzero(mask_HW)
            center = (float(xs.mean()) + 0.5, float(ys.mean()) + 0.5)
            found.append((center, f"{caption} {place_of(center, labelled.video.height, labelled.video.width)}"))
    return ", ".join(words for _, words in sorted(found)) or "nothing"
