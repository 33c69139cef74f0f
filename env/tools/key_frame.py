"""The tool `key_frame`: the key frame that the action names, large."""

from __future__ import annotations

from configs.schema import EnvConfig
from env.frames import frame_refs
from env.prompts import KEY_LABEL, FrameRefs, Parts
from env.tools.base import Tool
from env.types import Select, VideoRef


def _show(video: VideoRef, select: Select, config: EnvConfig) -> FrameRefs:
    return frame_refs(video, (select.key_frame,), "key", config.key_pixels, config.size_factor)


def _full(select: Select, frames: FrameRefs) -> Parts:
    return (*frames, f"\nKey frame {select.key_frame}, large.\n")


def _brief(select: Select, frames: FrameRefs) -> Parts:
    return (f" | {KEY_LABEL} {select.key_frame}", *frames)


KEY_FRAME = Tool(
    role="key",
    help='"keyframe" picks a key frame: you are shown that one frame large. Use it to tell look-alikes apart and to '
    "check that the object can be seen well there.",
    show=_show,
    layout={"full": _full, "brief": _brief},
    is_large=True,
)
