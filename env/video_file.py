"""Exact random access to the frames of one video file, through PyAV. It knows nothing of tasks or data roots.

Frame i is the one with the i-th smallest presentation time. If the container holds the times, the file is indexed once
without decoding it, and frames are sought. If it does not (AVI, raw streams), or if seeking fails (transport streams),
frames are counted from the start, which is slower and still exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from env.errors import DataError

# Up to so many frames are decoded and dropped before seeking again: about one group of pictures.
_READ_ON = 32


class VideoFile:
    """The first video stream of a file, opened on construction and decoded frame by frame."""

    def __init__(self, path: Path):
        """Index the stream. DataError if the file cannot be opened, holds no video or is cut short."""
        self._path = path
        self._decoder: Iterator[Any] | None = None
        self._position = -1  # index of the frame decoded last
        self._times: list[int] = []  # [T] presentation times; empty where frames are counted
        try:
            self._open()
            self._times = self._presentation_times()
            self._num_frames = len(self._times) or self._count()
        except (FFmpegError, OSError, ValueError) as error:
            raise DataError(str(path), f"cannot be read as a video ({error}); is the file complete?") from error

    def __len__(self) -> int:
        return self._num_frames

    def frame(self, frame_idx: int) -> np.ndarray:
        """Return frame `frame_idx` as uint8 RGB [H,W,3], turned upright. DataError if it cannot be decoded."""
        try:
            found = self._sought(frame_idx) if self._times else None
            if found is None:
                self._times = []
                found = self._counted(frame_idx)
        except (FFmpegError, OSError, ValueError) as error:
            self._decoder = None
            raise DataError(str(self._path), f"frame {frame_idx} cannot be decoded ({error})") from error
        if found is None:
            raise DataError(str(self._path), f"frame {frame_idx} of {len(self)} is missing or damaged")
        return _upright(found)

    def _open(self) -> None:
        self._container: Any = av.open(str(self._path), metadata_errors="replace")
        if not self._container.streams.video:
            raise DataError(str(self._path), "expected a video stream, found none")
        self._stream: Any = self._container.streams.video[0]
        self._stream.thread_type = "NONE"  # many workers share a machine
        self._decoder = None

    def _presentation_times(self) -> list[int]:
        """Return the sorted times of all frames, from their packets; empty if the container does not hold them."""
        # The packets themselves are dropped: together they are the whole file.
        found = [(p.pts, p.is_corrupt) for p in self._container.demux(self._stream) if p.size and not p.is_discard]
        promised = self._stream.frames
        if not found or promised > len(found) or any(is_corrupt for _, is_corrupt in found):
            problem = f"expected {promised or 'some'} frames, found {len(found)}; the file is cut short"
            raise DataError(str(self._path), problem)
        times = sorted({pts for pts, _ in found if pts is not None})
        return times if len(times) == len(found) else []

    def _count(self) -> int:
        self._open()
        return sum(1 for _ in self._container.decode(self._stream))

    def _sought(self, frame_idx: int) -> Any:
        """Return the frame by its time; None if the times of the container or its seeking are wrong."""
        time = self._times[frame_idx]
        if self._decoder is None or not 0 < frame_idx - self._position <= _READ_ON:
            self._container.seek(time, stream=self._stream, backward=True)
            self._decoder = iter(self._container.decode(self._stream))
        self._position = frame_idx
        for frame in self._decoder:
            if frame.pts is None or frame.pts > time:
                break
            if frame.pts == time:
                return None if frame.is_corrupt else frame
        self._decoder = None
        return None

    def _counted(self, frame_idx: int) -> Any:
        """Return the frame by its place in decoding order; None if it is missing or damaged."""
        if self._decoder is None or frame_idx <= self._position:
            self._open()
            self._decoder = iter(self._container.decode(self._stream))
            self._position = -1
        for frame in self._decoder:
            self._position += 1
            if self._position == frame_idx:
                return None if frame.is_corrupt else frame
        self._decoder = None
        return None


def _upright(frame: Any) -> np.ndarray:
    """Return the pixels after the rotation that the file asks players to apply (phones record sideways)."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4))
