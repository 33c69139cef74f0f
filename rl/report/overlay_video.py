"""Write a predicted tracklet as PNG masks, as JSON and as a video with the mask laid over it."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import numpy as np
from PIL import Image

from env.errors import DataError
from env.files import machine_errors, replace_folder, replace_path, write_json
from env.frames import FrameCache
from env.rle import mask_or_empty
from env.types import Trajectory

COLOUR = np.array([255, 64, 64])


def _mask(trajectory: Trajectory, frame_idx: int) -> np.ndarray:
    video = trajectory.task.video
    return mask_or_empty(trajectory.masks.get(frame_idx), video.height, video.width)


def remove_prediction(out: Path) -> None:
    """Remove what a former prediction wrote into a folder.

    Raises:
        DataError: The folder holds masks that are not a prediction's.
        MachineError: They cannot be removed.
    """
    masks, overlay, rles, store = (out / name for name in ("masks", "overlay.mp4", "masks.json", "trajectories"))
    if masks.is_dir() and any(masks.iterdir()) and not rles.exists():
        raise DataError(str(masks), "expected masks of a former prediction or none, found others; name another --out")
    with machine_errors(out):
        for folder in (masks, store):
            if folder.exists():
                shutil.rmtree(folder)
        overlay.unlink(missing_ok=True)
        rles.unlink(missing_ok=True)  # last: it shows that the masks are a prediction's


def write_masks(trajectory: Trajectory, out: Path) -> None:
    """Write `masks/<frame>.png` (0/255) of every frame, and `masks.json` with the query and an RLE per frame."""
    video = trajectory.task.video
    names = video.frames or tuple(f"{at:05d}" for at in range(video.num_frames))
    masks = {name: trajectory.masks.get(at) for at, name in enumerate(names)}
    write_json(out / "masks.json", {"query": trajectory.task.expression, "masks": masks}, indent=None)
    with replace_folder(out / "masks") as folder:
        for at, name in enumerate(names):
            Image.fromarray(_mask(trajectory, at).astype(np.uint8) * 255).save(folder / f"{name}.png")


def write_overlay(trajectory: Trajectory, frames: FrameCache, path: Path) -> None:
    """Write the video at 12 frames per second with the predicted masks in red.

    Args:
        trajectory: With masks by source frame; a frame without one stays as it is.
        frames: Where pixels are read.
        path: Of the MP4 file.

    Raises:
        DataError: A frame cannot be read; then there is no file.
    """
    video = trajectory.task.video
    # The codec requires even sides: an odd one loses its last row or column, and a single one is doubled.
    height, width = max(2, video.height // 2 * 2), max(2, video.width // 2 * 2)
    with replace_path(path) as draft, av.open(str(draft), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=12, options={"preset": "veryfast"})  # it holds few frames
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for at in range(video.num_frames):
            pixels = frames.full(video, at).copy()
            mask = _mask(trajectory, at)
            pixels[mask] = (pixels[mask] * 0.5 + COLOUR * 0.5).astype(np.uint8)
            pixels = np.pad(pixels, ((0, 1), (0, 1), (0, 0)), "edge")[:height, :width]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
