"""Image features of a video, encoded chunk by chunk when they are asked for and dropped when they are out of use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from policy.sam.model import FrameFeatures


class VideoFeatures(Protocol):
    """Image features of the frames of one video; `FrameFeatures` of all frames are such."""

    def __len__(self) -> int:
        """Return the number of frames."""
        ...

    def row(self, index: int) -> FrameFeatures:
        """Return the features of one frame."""
        ...


class ChunkedFeatures:
    """Features of a video of any length, of which a few chunks are kept: those used last.

    A tracker that goes both ways through the video needs two chunks for each object that it tracks at the same time.
    """

    def __init__(self, encode: Callable[[range], FrameFeatures], num_frames: int, chunk: int, kept: int):
        """Store the settings; nothing is encoded.

        Args:
            encode: Returns the features of consecutive frames.
            num_frames: Of the video.
            chunk: Frames that are encoded at once; chunks begin at multiples of it, whatever is asked for first.
            kept: Most chunks that are kept.
        """
        self._encode = encode
        self._num_frames = num_frames
        self._chunk = chunk
        self._kept = kept
        self._chunks: OrderedDict[int, FrameFeatures] = OrderedDict()

    def __len__(self) -> int:
        return self._num_frames

    def row(self, index: int) -> FrameFeatures:
        """Return the features of one frame; encode its chunk first if it is not kept."""
        number, place = divmod(index, self._chunk)
        if number not in self._chunks:
            if len(self._chunks) == self._kept:
                self._chunks.popitem(last=False)  # before the next one is encoded
            start = number * self._chunk
            self._chunks[number] = self._encode(range(start, min(start + self._chunk, self._num_frames)))
        self._chunks.move_to_end(number)
        return self._chunks[number].row(place)
