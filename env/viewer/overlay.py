"""Masks and frames for a page: outlines as SVG paths, frames as JPEG data URIs, each embedded once."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

import cv2
import numpy as np

from env.errors import DataError
from env.frames import FrameCache
from env.rle import decode, is_empty
from env.types import RLE, Region, Task, VideoRef

MAX_IMAGES = 4000  # most frames of one page, about 10 KB each


@dataclass
class ImageBook:
    """Frames of one page. The same frame at the same size is encoded and embedded once.

    For a frame that cannot be read (the video was moved, or is damaged) the page says "no image".
    """

    cache: FrameCache
    uris: list[str] = field(default_factory=list)
    known: dict[tuple[str, str, int, int, int, Region | None], int | None] = field(default_factory=dict)

    def add(
        self, video: VideoRef, frame_idx: int, width: int, height: int, max_side: int, region: Region | None = None
    ) -> int | None:
        """Add one frame, unless the page has it already.

        Args:
            video: The video.
            frame_idx: Source frame.
            width: Width in pixels at which the policy was shown the frame.
            height: Height in pixels at which the policy was shown the frame.
            max_side: Pixels to which the longer side is shrunk for the page.
            region: The part of the frame that is shown, in source pixels; None: all of it.

        Returns:
            Position of the image in `uris`; None where the frame cannot be read or the page is full.
        """
        scale = min(1.0, max_side / max(width, height))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        key = (video.root, video.path, frame_idx, *size, region)
        if key not in self.known:
            self.known[key] = self._embed(video, frame_idx, size, region)
        return self.known[key]

    def _embed(self, video: VideoRef, frame_idx: int, size: tuple[int, int], region: Region | None) -> int | None:
        if len(self.uris) >= MAX_IMAGES:
            return None
        try:
            pixels_HWC = self.cache.native(video, frame_idx, region)
        except DataError:
            return None
        self.uris.append(jpeg_uri(cv2.resize(pixels_HWC, size, interpolation=cv2.INTER_AREA)))
        return len(self.uris) - 1


def jpeg_uri(pixels_HWC: np.ndarray, quality: int = 82) -> str:
    """Return uint8 RGB pixels [H,W,3] as a `data:image/jpeg` URI; `quality` is 0 to 100."""
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(pixels_HWC, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def outline_path(rle: RLE | None) -> str:
    """Return SVG path data around a mask's regions and holes, in its own pixels, to be filled even-odd; "" if empty."""
    if rle is None:
        return ""
    # Contours run through pixel centres: on a doubled mask they lie a quarter pixel inside the true edge.
    doubled_HW = np.kron(decode(rle).astype(np.uint8), np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(doubled_HW, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    pieces = []
    for contour in contours:
        points = (cv2.approxPolyDP(contour, 1.0, True)[:, 0] + 0.5) / 2
        pieces.append("M" + "L".join(f"{x:g} {y:g}" for x, y in points) + "Z")
    return "".join(pieces)


def visible_runs(rles: list[RLE | None]) -> list[tuple[int, int]]:
    """Return the half-open runs of frames `[start, end)` on which the mask is not empty."""
    runs: list[tuple[int, int]] = []
    for frame_idx, rle in enumerate(rles):
        if is_empty(rle):
            continue
        if runs and runs[-1][1] == frame_idx:
            runs[-1] = (runs[-1][0], frame_idx + 1)
        else:
            runs.append((frame_idx, frame_idx + 1))
    return runs


def gold_mask(task: Task, frame_idx: int) -> RLE | None:
    """Return the gold mask of a frame; None if the target is absent, gold is unknown or there is no such frame."""
    return task.gold[frame_idx] if 0 <= frame_idx < len(task.gold) else None


def region_iou(predicted: RLE | None, gold: RLE | None) -> float | None:
    """Return J of one frame, 0 to 1. Two empty masks score 1. None if the masks differ in size."""
    if predicted is None or gold is None or is_empty(predicted) or is_empty(gold):
        return float(is_empty(predicted) == is_empty(gold))
    if list(predicted["size"]) != list(gold["size"]):
        return None
    predicted_HW, gold_HW = decode(predicted), decode(gold)
    return float((predicted_HW & gold_HW).sum() / (predicted_HW | gold_HW).sum())
