"""Small videos whose frames show their own index, for the tests of env."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image


def numbered_frame(frame_idx: int, height: int = 48, width: int = 80) -> np.ndarray:
    """Return uint8 [H, W, 3]: eight black or white bars show the index in binary, lowest bit left.

    The bars survive lossy coding. `height` and `width` are in pixels.
    """
    bits = [(frame_idx >> bit) & 1 for bit in range(8)]
    columns = np.repeat(np.array(bits, np.uint8) * 255, width // 8)
    return np.broadcast_to(columns[None, :, None], (height, width, 3)).copy()


def read_number(pixels_HWC: np.ndarray) -> int:
    """Return the index that `numbered_frame` drew."""
    width = pixels_HWC.shape[1] // 8
    return sum(int(pixels_HWC[:, b * width + 2 : (b + 1) * width - 2].mean() > 127) << b for b in range(8))


def write_folder(folder: Path, num_frames: int, suffix: str = ".jpg", height: int = 48, width: int = 80) -> Path:
    """Write a folder of numbered frames 00000.jpg, 00001.jpg, ...; return `folder`."""
    folder.mkdir(parents=True)
    for frame_idx in range(num_frames):
        Image.fromarray(numbered_frame(frame_idx, height, width)).save(folder / f"{frame_idx:05d}{suffix}")
    return folder


def write_video(path: Path, num_frames: int, codec: str, options: dict[str, str] | None = None) -> Path:
    """Write a video file of numbered frames of 80x48 at 25 frames per second; return `path`."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        for frame_idx in range(num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(frame_idx), format="rgb24")))
        container.mux(stream.encode(None))
    return path
