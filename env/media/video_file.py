"""Exact random access to the frames of one video file, through PyAV. It knows nothing of tasks or data roots.

Frame i is the i-th frame that a player shows: what an edit list hides is not counted, and what the container leaves out
(AVI's dropped frames) is not either. Frames are found by their time stamps, so that a damaged frame does not shift the
others. If the container holds presentation times, the file is indexed once without decoding it, and frames are sought.
If it does not (AVI, raw streams), it is decoded once to find the stamps of its frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import ArgumentError, FFmpegError
from av.stream import Disposition
from av.video.frame import PictureType

from env.errors import DataError
from env.media.container_size import cuts_cluster, ends_early
from env.media.display_matrix import upright
from env.media.image_file import MAX_FRAME_PIXELS, check_pixels
from env.media.regular_file import require_regular

MAX_FRAMES = 1 << 20  # nearly ten hours at 30 frames per second
# Playlists are not among them: they name other files, which may lie outside of the data root.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts", "mpeg", "mpegvideo", "m4v", "h264", "hevc", "obu",
    "ivf", "flv", "asf", "ogg", "mxf", "nut", "dv", "rm", "gif", "apng", "yuv4mpegpipe", "mjpeg",
)  # fmt: skip
# Tags may be in any encoding. PyAV 19 always takes them as they are.
METADATA: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}
# Up to so many frames are decoded and dropped before seeking again: about one group of pictures.
_READ_ON = 32
_MOST_B_FRAMES = 16  # in a row, as H.264 and HEVC allow


class VideoFile:
    """The best video stream of a file, opened on construction and decoded frame by frame."""

    def __init__(self, path: Path):
        """Index the stream. DataError if the file cannot be opened, holds no video or is cut short."""
        self.path = path
        self._decoder: Iterator[tuple[int | None, Any]] | None = None
        self._from_start = False  # whether the decoder began at the first frame
        self._position = -1  # index of the frame found last
        self._stamp = "pts"  # what identifies a frame: pts, dts, or its place in decoding order
        self._can_seek = True
        self._bad: set[int] = set()  # stamps of frames that cannot be decoded, as far as known
        try:
            require_regular(path)
            self._times = self._index()
        except (FFmpegError, OSError, ValueError) as error:
            raise DataError(str(path), f"cannot be read as a video ({error}); is the file complete?") from error
        if not self._times:
            raise DataError(str(path), "expected a video, found no frame that can be shown")

    def __len__(self) -> int:
        return len(self._times)

    def frame(self, frame_idx: int) -> np.ndarray:
        """Return frame `frame_idx` as uint8 RGB [H,W,3], turned upright. DataError if it cannot be decoded."""
        found = None
        if self._times[frame_idx] not in self._bad:
            try:
                found = self._sought(frame_idx) if self._can_seek else None
                if found is None and not (self._can_seek and self._from_start):
                    found = self._read_through(frame_idx)
            except (FFmpegError, OSError, ValueError) as error:
                self._decoder = None
                raise DataError(str(self.path), f"frame {frame_idx} cannot be decoded ({error})") from error
        if found is None:
            self._bad.add(self._times[frame_idx])
            raise DataError(str(self.path), f"frame {frame_idx} of {len(self)} is missing or damaged")
        check_pixels(self.path, found.width, found.height)
        return upright(found, self.path)

    @property
    def notes(self) -> list[str]:
        """What the user should know about the video, a sentence each."""
        ratio = self._stream.codec_context.sample_aspect_ratio
        if not ratio or ratio == 1:
            return []
        problem = f"its pixels are not square ({ratio.numerator}:{ratio.denominator})"
        return [f"{problem}; frames and masks have the stored size, which a player stretches"]

    def _open(self) -> None:
        try:
            self._container: Any = av.open(
                str(self.path.absolute()),
                **METADATA,
                container_options={"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"},
            )
        except ArgumentError as error:
            raise DataError(
                str(self.path), "expected a video file, found another kind (a playlist, an image)"
            ) from error
        self._stream: Any = self._container.streams.best("video")
        if self._stream is None or self._stream.disposition & Disposition.attached_pic:
            raise DataError(str(self.path), "expected a video stream, found none")
        context = self._stream.codec_context
        if context is None:
            raise DataError(
                str(self.path),
                "expected a video stream that FFmpeg can decode, found an unknown codec; is the file complete?",
            )
        check_pixels(self.path, context.width or 1, context.height or 1)
        context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
        if context.name == "mjpeg":  # otherwise parts that are missing hold what the memory held before
            context.options |= {"err_detect": "explode"}
        self._stream.thread_type = "NONE"  # many workers share a machine
        self._restart()

    def _restart(self) -> None:
        self._decoder, self._from_start, self._position = None, False, -1

    def _index(self) -> list[int]:
        """Return the sorted stamps [T] of all frames that are shown."""
        self._open()
        packets = list(self._packets())
        self._require_whole(packets)
        times = sorted(pts for pts, _, is_discard in packets if not is_discard and pts is not None)
        num_shown = sum(not is_discard for _, _, is_discard in packets)
        # AVI holds the decoding order alone; the times are FFmpeg's guess.
        is_guess = self._container.format.name == "avi" and self._stream.codec_context.has_b_frames
        if is_guess or len(times) < num_shown or _has_doubles(times):
            return self._decoded_stamps()
        self._open()
        first = next((stamp for stamp, _ in self._decoded() if stamp is not None), None)
        # A file that was cut in front of a key frame begins with frames that nobody can decode, and no player shows.
        return times if first is None or self._failed else [time for time in times if time >= first]

    def _packets(self) -> Iterator[tuple[int | None, int | None, bool]]:
        """Yield (pts, dts, whether an edit list hides it) of each packet; the packets themselves are dropped."""
        self._num_packets = 0
        self._last_is_corrupt = False
        for packet in self._container.demux(self._stream):
            if packet.dts is None and packet.pts is None and not packet.size:
                continue  # the end
            self._num_packets += 1
            self._last_is_corrupt = packet.is_corrupt
            if self._num_packets > MAX_FRAMES:
                raise DataError(str(self.path), f"expected a video of at most {MAX_FRAMES} frames, found more")
            if packet.size:
                yield packet.pts, packet.dts, packet.is_discard

    def _require_whole(self, packets: list[tuple[int | None, int | None, bool]]) -> None:
        """Raise a DataError if packets are missing at the end."""
        stream = self._stream
        promised = stream.frames
        if self._container.format.name.startswith("mov"):
            promised = len(stream.index_entries)  # without what the demuxer leaves out because of an edit list
            is_cut = promised > self._num_packets
        elif self._container.format.name == "avi":
            # The header counts the places of dropped frames too; a frame's decoding time is its place.
            is_cut = promised > 1 + max((dts for _, dts, _ in packets if dts is not None), default=-1)
            is_cut = is_cut and ends_early(self.path)
        else:
            is_cut = cuts_cluster(self.path) or (ends_early(self.path) and self._lacks_time(packets))
        if is_cut or self._last_is_corrupt or not packets:
            found = sum(not is_discard for _, _, is_discard in packets)
            raise DataError(
                str(self.path), f"expected {promised or 'more'} frames, found {found}; the file is cut short"
            )

    def _lacks_time(self, packets: list[tuple[int | None, int | None, bool]]) -> bool:
        """Return whether the packets end more than a frame before the container says."""
        duration, rate = self._container.duration, self._stream.average_rate
        last = max((pts for pts, _, _ in packets if pts is not None), default=None)
        if duration is None or last is None or not rate:
            return True
        return float(last * self._stream.time_base) + 2.5 / float(rate) < duration / av.time_base

    def _decoded_stamps(self) -> list[int]:
        """Return the stamps of the frames by decoding them all; sets what identifies them."""
        self._can_seek = False
        for self._stamp in ("pts", "dts"):
            self._open()
            stamps = [stamp for stamp, _ in self._decoded()]
            known, failed = ([stamp for stamp in found if stamp is not None] for found in (stamps, self._failed))
            has_all = len(known) + len(failed) == len(stamps) + len(self._failed)
            is_ordered = has_all and all(before < after for before, after in pairwise(known))
            # With reordering, a frame has the decoding time of a later packet.
            is_own = self._stamp == "pts" or not self._stream.codec_context.has_b_frames or not self._failed
            if is_ordered and is_own:
                return sorted({*known, *failed})
        self._stamp = "place"
        self._open()
        places = [place for place, _ in self._decoded() if place is not None]
        if self._failed:
            problem = f"a frame after frame {self._failed[0]} cannot be decoded, and frames have no times to tell which"
            raise DataError(str(self.path), problem)
        return places

    def _decoded(self) -> Iterator[tuple[int | None, Any]]:
        """Yield (stamp, frame) from where the container stands; None instead of a damaged frame.

        After a packet that cannot be decoded, frames are damaged up to the next key frame. B-frames wait for the next
        frame of another type: if that one is damaged, so are they, because they refer to it.
        """
        self._failed: list[int | None] = []  # stamps of packets that could not be decoded
        is_broken, place = False, 0
        waiting: list[tuple[int | None, Any]] = []
        for packet in self._container.demux(self._stream):
            is_broken |= packet.is_corrupt
            try:
                frames = packet.decode()
            except FFmpegError:
                is_broken = True
                self._failed.append(place - 1 if self._stamp == "place" else getattr(packet, self._stamp))
                continue
            for frame in frames:
                is_broken = frame.is_corrupt or (is_broken and not frame.key_frame)
                stamp = place if self._stamp == "place" else getattr(frame, self._stamp)
                place += 1
                waiting = [(before, None if frame.is_corrupt else other) for before, other in waiting]
                waiting.append((stamp, None if is_broken else frame))
                if frame.pict_type != PictureType.B or len(waiting) > _MOST_B_FRAMES:
                    yield from waiting
                    waiting = []
        yield from waiting

    def _sought(self, frame_idx: int) -> Any:
        """Return the frame by seeking; None if it is damaged, or seeking is inexact."""
        if self._decoder is None or not 0 < frame_idx - self._position <= _READ_ON:
            self._container.seek(self._times[frame_idx], stream=self._stream, backward=True)
            self._decoder, self._from_start = self._decoded(), False
        return self._read_on(frame_idx)

    def _read_through(self, frame_idx: int) -> Any:
        """Return the frame by decoding from the first one on; None if it is damaged."""
        if self._decoder is None or not self._from_start or frame_idx <= self._position:
            self._open()
            self._decoder, self._from_start = self._decoded(), True
        found = self._read_on(frame_idx)
        if found is not None:
            self._can_seek = False  # seeking led elsewhere, or past what the frame refers to
        return found

    def _read_on(self, frame_idx: int) -> Any:
        """Return the frame from the running decoder; None if it is damaged or does not come."""
        assert self._decoder is not None
        self._position = frame_idx
        for stamp, frame in self._decoder:
            if stamp == self._times[frame_idx]:
                return frame
            if stamp is not None and stamp > self._times[frame_idx]:
                self._decoder = chain([(stamp, frame)], self._decoder)  # the next call may ask for this one
                return None
        self._decoder = None
        return None


def _has_doubles(times: list[int]) -> bool:
    return any(before == after for before, after in pairwise(times))
