"""A tool of your own: a region of the key frame at high resolution, `crop`.

To install it: put this file into `env/tools/`, add the line `"crop": CROP` to `TOOLS` in `env/tools/__init__.py`, and
enable it with `--set env.tools=[zoom,key_frame,crop]`.
"""

from __future__ import annotations

from configs.schema import EnvConfig
from env.frames import fit_size
from env.prompts import FrameRefs
from env.tools.base import Tool
from env.types import FrameRef, Select, VideoRef

SCALE = 1000  # the policy does not know how large the source is: a box is in thousandths of the frame's sides


def problem(select: Select, num_frames: int) -> str:
    """Return what is wrong with the box of a select, or "" where it is a part of the frame."""
    left, top, right, bottom = select.arguments["box"]
    if 0 <= left < right <= SCALE and 0 <= top < bottom <= SCALE:
        return ""
    return f"box {left}, {top}, {right}, {bottom} is empty or leaves the frame"


def show(video: VideoRef, select: Select, config: EnvConfig) -> FrameRefs:
    """Return the region, at most as large as the source has it. Its sides are rounded outwards to source pixels."""
    left, top, right, bottom = select.arguments["box"]
    region = (
        left * video.width // SCALE,
        top * video.height // SCALE,
        -(-right * video.width // SCALE),
        -(-bottom * video.height // SCALE),
    )
    size = (region[3] - region[1], region[2] - region[0])  # height, width
    width, height = fit_size(*size, config.key_pixels, config.size_factor)
    return (FrameRef(select.key_frame, width, height, "crop", region),)


CROP = Tool(
    role="crop",
    help='"box" may be added: [left, top, right, bottom] in thousandths of the width and height of the key frame. You '
    "are then shown that part of it as sharp as the video is. Use it to read what is small.",
    show=show,
    layout={
        "full": "{images}\nThe box {arguments} of frame {key_frame}, large.\n",  # for pretrained models
        "brief": " | box{images}",  # for tiny ones
    },
    arguments={"box": 4},
    problem=problem,
    is_large=True,
)
