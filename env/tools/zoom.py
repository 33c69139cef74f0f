"""The tool `zoom`: small frames of the interval that the action names."""

from __future__ import annotations

from configs.schema import EnvConfig
from env.frames import frame_refs, sample_indices
from env.prompts import ZOOM_LETTERS, FrameRefs, Parts, frame_labels, index_list
from env.tools.base import Tool
from env.types import Select, VideoRef


def _show(video: VideoRef, select: Select, config: EnvConfig) -> FrameRefs:
    indices = sample_indices(select.interval, config.zoom_frames)
    return frame_refs(video, indices, "zoom", config.zoom_pixels, config.size_factor)


def _full(select: Select, frames: FrameRefs) -> Parts:
    first, last = select.interval.start, select.interval.end - 1
    where = f"at the frame indices {index_list(frames)}"
    return (*frames, f"\nSmall frames from {first} to {last} ({len(frames)}), {where}.\n")


def _brief(select: Select, frames: FrameRefs) -> Parts:
    labels = frame_labels((frame.frame_idx for frame in frames), ZOOM_LETTERS)
    shown = [part for frame in frames for part in (f" {labels[frame.frame_idx]} {frame.frame_idx}", frame)]
    return (f"{select.interval.start} to {select.interval.end - 1} |", *shown)


ZOOM = Tool(
    role="zoom",
    help='"start" and "end" zoom in on an interval: you are shown small frames spread evenly from its first frame '
    "to its last, closer together than before. Use it to find when something happens.",
    show=_show,
    layout={"full": _full, "brief": _brief},
)
