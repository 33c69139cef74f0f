"""Write a predicted tracklet as PNG masks, as JSON and as a video with the mask laid over it."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from PIL import Image

from env.files import replace_folder, replace_path, write_json
from env.frames import FrameCache
from env.rle import mask_or_empty
from env.types import Trajectory

COLOUR = np.array([255, 64, 64])


def _mask(trajectory: Trajectory, frame_idx: int) -> np.ndarray:
    video = trajectory.task.video
    return mask_or_empty(trajectory.masks.get(frame_idx), video.height, video.width)


def write_masks(trajectory: Trajectory, out: Path) -> None:
    """Write `masks/<frame>.png` (0/255) of every frame, and `masks.json` with the query and an RLE per frame."""
    video = trajectory.task.video
    names = video.frames or tuple(f"{at:05d}" for at in range(video.num_frames))
    with replace_folder(out / "masks") as draft:
        for at, name in enumerate(names):
            Image.fromarray(_mask(trajectory, at).astype(np.uint8) * 255).save(draft / f"{name}.png")
    masks = {name: trajectory.masks.get(at) for at, name in enumerate(names)}
    write_json(out / "masks.json", {"query": trajectory.task.expression, "masks": masks}, indent=None)


def write_overlay(trajectory: Trajectory, frames: FrameCache, path: Path) -> None:
    """Write the video at 12 frames per second with the predicted masks in red.

    Args:
        trajectory: With masks by source frame; a frame without one stays as it is.
        frames: Where pixels are read.
        path: Of the MP4 file.
    """
    video = trajectory.task.video
    height, width = video.height // 2 * 2, video.width // 2 * 2  # the codec requires even sides
    with replace_path(path) as draft, av.open(str(draft), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for at in range(video.num_frames):
            pixels = frames.full(video, at).copy()
            mask = _mask(trajectory, at)
            pixels[mask] = (pixels[mask] * 0.5 + COLOUR * 0.5).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:height, :width]), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
