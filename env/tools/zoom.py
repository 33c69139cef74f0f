"""The tool `zoom`: small frames of the interval that the action names."""

from __future__ import annotations

from configs.schema import EnvConfig
from env.frames import frame_refs
from env.prompts import FrameRefs
from env.spacing import zoom_frames
from env.tools.base import Tool
from env.types import Select, VideoRef


def _show(video: VideoRef, select: Select, config: EnvConfig) -> FrameRefs:
    return frame_refs(video, zoom_frames(select.interval, config), "zoom", config.zoom_pixels, config.size_factor)


ZOOM = Tool(
    role="zoom",
    help='"start" and "end" zoom in on an interval: you are shown small frames spread evenly from its first frame '
    "to its last, closer together than before. Use it to find when something happens.",
    show=_show,
)
