"""Exact random access to the frames of one video file, through PyAV. Knows nothing of tasks or data roots.

Frame i is the frame with the i-th smallest presentation time; the file is indexed once, without decoding it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from env.errors import DataError

# Frames decoded and thrown away rather than seeking again: about one group of pictures.
_READ_ON = 32


class VideoFile:
    """The first video stream of a file, opened on construction and decoded frame by frame."""

    def __init__(self, path: Path):
        """Index the stream. DataError where the file cannot be opened, holds no video or is cut short."""
        self._path = path
        try:
            self._container: Any = av.open(str(path), metadata_errors="replace")
        except (FFmpegError, OSError, ValueError) as error:
            raise DataError(str(path), f"cannot be opened as a video ({error}); is the file complete?") from error
        if not self._container.streams.video:
            raise DataError(str(path), "expected a video stream, found none")
        self._stream: Any = self._container.streams.video[0]
        self._stream.thread_type = "NONE"  # many workers share the machine; threads also delay frames
        self._times = self._presentation_times()
        self._index = {time: i for i, time in enumerate(self._times)}
        self._decoder: Any = None
        self._position = -1  # index of the frame decoded last

    def __len__(self) -> int:
        return len(self._times)

    def frame(self, frame_idx: int) -> np.ndarray:
        """Frame `frame_idx`, upright, as uint8 RGB [H,W,3]. DataError where it cannot be decoded."""
        try:
            if self._decoder is not None and 0 < frame_idx - self._position <= _READ_ON:
                found = self._read_until(frame_idx)
            else:
                found = self._seek_and_read(frame_idx)
        except (FFmpegError, OSError, ValueError) as error:
            self._decoder = None
            raise DataError(str(self._path), f"frame {frame_idx} cannot be decoded ({error})") from error
        if found is None or found.is_corrupt:
            self._decoder = None
            raise DataError(str(self._path), f"frame {frame_idx} of {len(self)} is missing or damaged")
        return _upright(found)

    def _presentation_times(self) -> list[int]:
        packets: list[Any] = []
        try:
            for packet in self._container.demux(self._stream):
                if packet.size and not packet.is_discard:
                    packets.append((packet.pts, packet.is_corrupt))
        except FFmpegError as error:
            raise DataError(str(self._path), f"breaks off after {len(packets)} frames ({error})") from error
        promised = self._stream.frames
        if not packets or any(is_corrupt for _, is_corrupt in packets) or promised > len(packets):
            raise DataError(
                str(self._path), f"expected {promised or 'some'} frames, found {len(packets)}; the file is cut short"
            )
        times = sorted({pts for pts, _ in packets if pts is not None})
        # Some containers (AVI, raw streams) carry no presentation times: then only decoding tells the order.
        return times if len(times) == len(packets) else self._decoded_times()

    def _decoded_times(self) -> list[int]:
        self._rewind()
        times = []
        try:
            for frame in self._container.decode(self._stream):
                if frame.pts is None or (times and frame.pts <= times[-1]):
                    raise DataError(str(self._path), "its frames carry no times; convert it, e.g. to MP4")
                times.append(frame.pts)
        except FFmpegError as error:
            raise DataError(str(self._path), f"breaks off after {len(times)} frames ({error})") from error
        return times

    def _rewind(self) -> None:
        # Before the first time: with reordered frames, decoding may start below it.
        self._container.seek(self._stream.start_time or 0, stream=self._stream, backward=True)

    def _seek_and_read(self, frame_idx: int) -> Any:
        """Seek to the nearest point at or before the frame; where that lands too late, start over from the top."""
        self._container.seek(self._times[frame_idx], stream=self._stream, backward=True)
        self._decoder = self._container.decode(self._stream)
        found = self._read_until(frame_idx)
        if found is None or found.is_corrupt:
            self._rewind()
            self._decoder = self._container.decode(self._stream)
            found = self._read_until(frame_idx)
        return found

    def _read_until(self, frame_idx: int) -> Any:
        for frame in self._decoder:
            self._position = self._index.get(frame.pts, self._position)
            if frame.pts == self._times[frame_idx]:
                return frame
            if frame.pts is not None and frame.pts > self._times[frame_idx]:
                break
        self._decoder = None
        return None


def _upright(frame: Any) -> np.ndarray:
    """Pixels of a frame after the rotation that the file asks players to apply (phones record sideways)."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4))
