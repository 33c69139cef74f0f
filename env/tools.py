"""The tool actions. Each is one entry of `TOOLS`; both are carried by one `<select>` and are shown in this order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from configs.schema import EnvConfig
from env.frames import frame_refs, sample_indices
from env.types import FrameRef, Select, VideoRef


@dataclass(frozen=True)
class Tool:
    """One way to look closer: what the policy is told about it, and the frames it is shown for a select."""

    help: str
    show: Callable[[VideoRef, Select, EnvConfig], tuple[FrameRef, ...]]


def _zoom(video: VideoRef, select: Select, config: EnvConfig) -> tuple[FrameRef, ...]:
    indices = sample_indices(select.interval, config.zoom_frames)
    return frame_refs(video, indices, "zoom", config.zoom_pixels, config.size_factor)


def _key_frame(video: VideoRef, select: Select, config: EnvConfig) -> tuple[FrameRef, ...]:
    return frame_refs(video, (select.key_frame,), "key", config.key_pixels, config.size_factor)


TOOLS: dict[str, Tool] = {
    "zoom": Tool(
        '"start" and "end" zoom in on an interval: you are shown small frames spread evenly from its first frame '
        "to its last, closer together than before. Use it to find when something happens.",
        _zoom,
    ),
    "key_frame": Tool(
        '"keyframe" picks a key frame: you are shown that one frame large. Use it to tell look-alikes apart and to '
        "check that the object can be seen well there.",
        _key_frame,
    ),
}
