"""Frames: which ones are shown, how large, and their pixels. All frames are read through here.

Other modules pass frames around as `FrameRef`. `FrameCache` reads their pixels where they are used, with one decode and
one resize.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock, RLock

import numpy as np
from PIL import Image

from env.data_root import FOLLOW_ENV, follows_links
from env.errors import DataError
from env.media.folder_listing import IMAGE_SUFFIXES, list_frames
from env.media.image_file import check_pixels, read_image
from env.media.video_file import VideoFile
from env.node_cache import NodeCache
from env.types import FIRST_ROLES, FrameRef, Interval, Region, VideoRef

_GREY = 127  # value of all pixels that a blind policy is shown

_Key = tuple[VideoRef, int, int, int, Region | None]  # video, frame, width, height (0, 0: native size), region


def sample_indices(interval: Interval, count: int) -> tuple[int, ...]:
    """Return `count` evenly spaced source indices of the interval, sorted, both ends included; all if there are fewer.

    `sample_indices(Interval(0, 10), 4)` is `(0, 3, 6, 9)`; a count of 1 gives the middle, 0 gives none.
    """
    last = len(interval) - 1
    if count > last:
        return tuple(range(interval.start, interval.end))
    if count <= 1:
        return ((interval.start + interval.end) // 2,) * count
    gaps = count - 1
    return tuple(interval.start + (2 * i * last + gaps) // (2 * gaps) for i in range(count))  # rounds half up


def fit_size(height: int, width: int, max_pixels: int, factor: int) -> tuple[int, int]:
    """Return the size at which a frame is shown; its aspect is nearly that of the source.

    `fit_size(480, 854, 25088, 32)` is `(192, 128)`.

    Args:
        height: Height of the source in pixels.
        width: Width of the source in pixels.
        max_pixels: Largest area. One cell of factor x factor pixels is shown even where it is larger.
        factor: Both sides become multiples of this.

    Returns:
        (width, height) in pixels, at most the source rounded up to the factor.
    """
    cells = max(1, max_pixels // factor**2)
    scale = min(1.0, math.sqrt(max_pixels / (height * width)))
    ideal_w, ideal_h = width * scale / factor, height * scale / factor
    most_w, most_h = math.ceil(width / factor), math.ceil(height / factor)
    pairs = set()
    for wide in (math.floor(ideal_w), math.ceil(ideal_w)):
        wide = min(max(1, wide), most_w, cells)
        for high in (math.floor(ideal_h), math.ceil(ideal_h), cells // wide):
            pairs.add((wide, min(max(1, high), most_h, cells // wide)))
    for high in (math.floor(ideal_h), math.ceil(ideal_h)):
        high = min(max(1, high), most_h, cells)
        for wide in (math.floor(ideal_w), math.ceil(ideal_w), cells // high):
            pairs.add((min(max(1, wide), most_w, cells // high), high))

    def cost(pair: tuple[int, int]) -> tuple[float, int]:
        off_w, off_h = math.log(pair[0] / ideal_w), math.log(pair[1] / ideal_h)
        # A wrong aspect costs twice as much as a wrong area. Of equal costs the wider size wins: the result is unique.
        return round(abs(off_w - off_h) + 0.5 * abs(off_w + off_h), 9), -pair[0]

    wide, high = min(pairs, key=cost)
    return wide * factor, high * factor


def frame_refs(
    video: VideoRef, indices: Sequence[int], role: str, max_pixels: int, factor: int
) -> tuple[FrameRef, ...]:
    """Return frames of a video, all at the size that `fit_size` gives.

    Args:
        video: The video.
        indices: Source frames.
        role: One of `FIRST_ROLES`, or the role of a tool.
        max_pixels: Largest area of a frame as it is shown.
        factor: Sides become multiples of this.
    """
    width, height = fit_size(video.height, video.width, max_pixels, factor)
    return tuple(FrameRef(frame_idx, width, height, role) for frame_idx in indices)


class Video:
    """The frames of one video at native size, decoded when asked for."""

    def __init__(self, ref: VideoRef):
        """Check the video's path without reading pixels. DataError if it leaves its data root or does not exist."""
        self.ref = ref
        self._path = _inside(ref.root, ref.path)
        self._file: VideoFile | None = None
        self._files: dict[str, str] | None = None  # of the folder, once it has been listed
        check_pixels(self._path, ref.width, ref.height)
        if ref.frames:
            if not self._path.is_dir():
                raise DataError(str(self._path), "expected a folder of frames, found none")
            if len(ref.frames) != ref.num_frames:
                raise DataError(str(self._path), f"expected {ref.num_frames} frame names, found {len(ref.frames)}")
        elif not self._path.is_file():
            raise DataError(str(self._path), "expected a video file, found none")

    def frame(self, frame_idx: int) -> np.ndarray:
        """Return source frame `frame_idx` as uint8 RGB [H,W,3]. DataError names a missing, damaged or wrong file."""
        if not 0 <= frame_idx < self.ref.num_frames:
            raise DataError(str(self._path), f"has frames 0 to {self.ref.num_frames - 1}, {frame_idx} was asked for")
        if self.ref.frames:
            return read_image(self._image_path(self.ref.frames[frame_idx]), (self.ref.width, self.ref.height))
        pixels_HWC = self._open().frame(frame_idx * self.ref.stride)
        if pixels_HWC.shape != (self.ref.height, self.ref.width, 3):
            raise DataError(
                str(self._path), f"frame {frame_idx} is {_wxh(pixels_HWC)}, expected {self.ref.width}x{self.ref.height}"
            )
        return pixels_HWC

    def _open(self) -> VideoFile:
        if self._file is None:
            self._file = VideoFile(self._path)
            found = -(-len(self._file) // self.ref.stride)
            if found != self.ref.num_frames:
                raise DataError(str(self._path), f"expected {self.ref.num_frames} frames, found {found}")
        return self._file

    def _image_path(self, name: str) -> Path:
        for suffix in IMAGE_SUFFIXES:
            path = _inside(self.ref.root, str(Path(self.ref.path, name + suffix)))
            if path.exists():
                return path
        if self._files is None:  # a suffix in other case, such as .JPG
            self._files = list_frames(self._path).files
        if name not in self._files:
            raise DataError(str(self._path / f"{name}.jpg"), "frame is missing")
        return _inside(self.ref.root, str(Path(self.ref.path, self._files[name])))


@dataclass(frozen=True)
class Probed:
    """A video as it was found."""

    video: VideoRef
    notes: tuple[str, ...]  # what the user should know about it, a sentence each


def probe(path: Path) -> VideoRef:
    """Return the reference of a folder of frames or of a video file; see `probe_with_notes`."""
    return probe_with_notes(path).video


def probe_with_notes(path: Path) -> Probed:
    """Return a folder of JPEG or PNG frames (in natural order) or a video file, and what there is to say about it.

    The root of the video is the path's parent. The first frame is decoded for the size. DataError if there is nothing
    to read.
    """
    path = path.resolve()
    if path.is_dir():
        listing = list_frames(path)
        if not listing.files:
            found = f"; {listing.notes[0]}" if listing.notes else ""
            raise DataError(str(path), f"expected frames ({', '.join(IMAGE_SUFFIXES)}), found none{found}")
        if listing.doubles:
            problem = f"two frames share the name {listing.doubles[0]!r} and differ only in suffix; keep one of them"
            raise DataError(str(path), problem)
        names = tuple(listing.files)
        return Probed(_ref(path, names, len(names), read_image(path / listing.files[names[0]])), listing.notes)
    if not path.exists():
        raise DataError(str(path), "expected a video file or a folder of frames, found neither")
    file = VideoFile(path)
    first_HWC = file.frame(0)
    return Probed(_ref(path, (), len(file), first_HWC), tuple(file.notes))


class FrameCache:
    """Cache of pixels by frame, which drops the least recently used ones. Threads and a group's siblings share one.

    One thread at a time reads a video, so that siblings that need the same frame decode it once. The arrays belong to
    the cache and are read-only.
    """

    def __init__(
        self,
        max_bytes: int = 256 << 20,
        blind: bool = False,
        blind_zooms: bool = False,
        max_videos: int = 16,
        node: NodeCache | None = None,
    ):
        """Make an empty cache.

        Args:
            max_bytes: Most bytes of pixels that are kept.
            blind: `pixels` returns grey for every frame: the baseline that only reads the question.
            blind_zooms: `pixels` returns grey for the frames that tools show. `full` is never grey.
            max_videos: Most video files that stay open.
            node: Cache of resized frames that the processes of a node share; None: this process keeps its own only.
        """
        self._max_bytes = max_bytes
        self._node = node
        self._blind = blind
        self._blind_zooms = blind_zooms
        self._max_videos = max_videos  # open video files
        self._videos: OrderedDict[VideoRef, tuple[RLock, Video]] = OrderedDict()
        self._arrays: OrderedDict[_Key, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()  # of the three above

    def pixels(self, video: VideoRef, frame: FrameRef) -> np.ndarray:
        """Return the frame as the policy is shown it: uint8 RGB [frame.height, frame.width, 3]."""
        if self._blind or (self._blind_zooms and frame.role not in FIRST_ROLES):
            return np.full((frame.height, frame.width, 3), _GREY, np.uint8)
        key = (video, frame.frame_idx, frame.width, frame.height, frame.region)

        def make() -> np.ndarray:
            return _resize(self.native(video, frame.frame_idx, frame.region), frame.width, frame.height)

        return self._read(key, make if self._node is None else partial(self._node.get, key, make))

    def full(self, video: VideoRef, frame_idx: int) -> np.ndarray:
        """Return the frame at native size: uint8 RGB [H,W,3]."""
        return self._read((video, frame_idx, 0, 0, None), lambda: self._open(video)[1].frame(frame_idx))

    def native(self, video: VideoRef, frame_idx: int, region: Region | None) -> np.ndarray:
        """Return a region of a frame (None: all of it) at native size, as an array of its own.

        Args:
            video: The video.
            frame_idx: Source frame.
            region: Left, top, right and bottom in source pixels; right and bottom are the first ones outside.

        Returns:
            uint8 RGB [bottom - top, right - left, 3].

        Raises:
            DataError: The frame cannot be read, or the region leaves it.
        """
        pixels_HWC = self.full(video, frame_idx)
        if region is None:
            return pixels_HWC
        left, top, right, bottom = region
        if not (0 <= left < right <= video.width and 0 <= top < bottom <= video.height):
            size = f"{video.width}x{video.height}"
            raise DataError(video.path, f"region {region} of frame {frame_idx} is empty or leaves its {size} pixels")
        return pixels_HWC[top:bottom, left:right].copy()  # a view would keep the whole frame in memory

    def _read(self, key: _Key, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the array under `key`; make and keep it first if there is none."""
        pixels_HWC = self._look_up(key)
        if pixels_HWC is not None:
            return pixels_HWC
        with self._open(key[0])[0]:
            pixels_HWC = self._look_up(key)  # another thread may have read it meanwhile
            if pixels_HWC is None:
                pixels_HWC = make()
                self._keep(key, pixels_HWC)
        return pixels_HWC

    def _open(self, ref: VideoRef) -> tuple[RLock, Video]:
        """Return the video and the lock of the thread that reads it."""
        with self._lock:
            if ref not in self._videos:
                self._videos[ref] = RLock(), Video(ref)
                if len(self._videos) > self._max_videos:
                    self._videos.popitem(last=False)
            self._videos.move_to_end(ref)
            return self._videos[ref]

    def _look_up(self, key: _Key) -> np.ndarray | None:
        with self._lock:
            if key not in self._arrays:
                return None
            self._arrays.move_to_end(key)
            return self._arrays[key]

    def _keep(self, key: _Key, pixels_HWC: np.ndarray) -> None:
        pixels_HWC.setflags(write=False)
        with self._lock:
            if key in self._arrays or pixels_HWC.nbytes > self._max_bytes:
                return
            self._arrays[key] = pixels_HWC
            self._bytes += pixels_HWC.nbytes
            while self._bytes > self._max_bytes:
                _, dropped_HWC = self._arrays.popitem(last=False)
                self._bytes -= dropped_HWC.nbytes


@dataclass(frozen=True)
class FrameCaches:
    """The two views of a video that one process reads; the same cache unless the policy is blind."""

    policy: FrameCache  # what the policy is shown
    sam: FrameCache  # what SAM 2 sees


def _inside(root: str, path: str) -> Path:
    """Return `root/path` with links resolved. DataError if it lies outside the data root."""
    try:
        base = Path(root).resolve()
        full = (base / path).resolve()
        full.exists()  # raises here on a name that the file system cannot hold
    except (OSError, ValueError, RuntimeError) as error:  # a link loop, a null byte, a name too long
        raise DataError(f"{path[:200]!r} in {root!r}", f"not a path ({str(error)[:80]})") from error
    if not full.is_relative_to(base) and not follows_links():
        raise DataError(
            f"{path!r} in {root!r}",
            f"leaves the data root (it leads to {full}); move the data inside it, or set {FOLLOW_ENV}=1",
        )
    return full


def _resize(pixels_HWC: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize by area average if the frame shrinks, bilinear if it grows."""
    if pixels_HWC.shape[:2] == (height, width):
        return pixels_HWC
    shrinks = height <= pixels_HWC.shape[0] and width <= pixels_HWC.shape[1]
    how = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    return np.array(Image.fromarray(pixels_HWC).resize((width, height), how))


def _ref(path: Path, frames: tuple[str, ...], num_frames: int, pixels_HWC: np.ndarray) -> VideoRef:
    height, width = pixels_HWC.shape[:2]
    return VideoRef(str(path.parent), path.name, frames, num_frames, height, width)


def _wxh(pixels_HWC: np.ndarray) -> str:
    return f"{pixels_HWC.shape[1]}x{pixels_HWC.shape[0]}"
