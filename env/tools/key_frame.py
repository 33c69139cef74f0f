"""The tool `key_frame`: the key frame that the action names, large."""

from __future__ import annotations

from configs.schema import EnvConfig
from env.frames import frame_refs
from env.prompts import FrameRefs
from env.tools.base import Tool
from env.types import Select, VideoRef


def _show(video: VideoRef, select: Select, config: EnvConfig) -> FrameRefs:
    return frame_refs(video, (select.key_frame,), "key", config.key_pixels, config.size_factor)


KEY_FRAME = Tool(
    role="key",
    help='"keyframe" picks a key frame: you are shown that one frame large. Use it to tell look-alikes apart and to '
    "check that the object can be seen well there.",
    show=_show,
    is_large=True,
)
