"""Locate the frames of a video: a folder of images, or every n-th frame of a video file. Files are opened on use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from cot_data.faults import RAISE, Faults
from cot_data.formats.json_fields import field
from env.data_root import check_links
from env.errors import DataError
from env.frames import Video
from env.media.folder_listing import list_frames
from env.media.image_file import image_size
from env.media.video_file import VideoFile
from env.outside_names import check_name, check_path
from env.rle import MAX_PIXELS
from env.types import VideoRef


class FrameFolder:
    """The frames `root/path/<frame>.jpg` (or .jpeg, .png, in any case).

    Their size is that of the metadata, or else of the first frame.
    """

    def __init__(self, root: Path, path: str, frames: tuple[str, ...] | None, size: tuple[int, int] | None, where: str):
        """Store the names; nothing is opened.

        Args:
            root: of the data set; nothing outside of it is opened.
            path: of the folder, relative to the root.
            frames: names without suffix; None for every image in the folder, in natural order of the names.
            size: (height, width) in pixels; None if the metadata does not have it.
            where: file and record, for errors.

        Raises:
            DataError: the path leads out of the root.
        """
        self.root, self.path, self.where = root, path, where
        self._frames, self._size = frames, size
        check_path(path, where)

    def ref(self, faults: Faults = RAISE) -> VideoRef:
        """Return the video. Lists the folder once, and opens the first frame if the size is unknown."""
        return self._ref if faults is RAISE else self._locate(faults)

    @cached_property
    def _ref(self) -> VideoRef:
        return self._locate(RAISE)

    def _locate(self, faults: Faults) -> VideoRef:
        folder = self.root / self.path
        check_links(self.root, self.path, self.where)
        if not folder.is_dir():
            raise DataError(self.where, f"expected the folder {folder}, found none")
        files = list_frames(folder).files
        frames = self._frames or tuple(files)
        if not frames:
            raise DataError(self.where, f"expected frames (.jpg) in {folder}, found none")
        for i, frame in enumerate(frames):
            if frame not in files:
                with faults.collect():
                    raise DataError(f"{self.where}.frames[{i}]", f"frame {folder / frame}.jpg is missing")
        first = folder / files.get(frames[0], f"{frames[0]}.jpg")
        height, width = self._size or _image_size(first, f"{self.where}.frames[0]")
        return VideoRef(str(self.root), self.path, frames, len(frames), height, width)

    def check(self, faults: Faults) -> VideoRef | None:
        """Collect a fault for frames that are missing, cannot be decoded, or have another size than the video."""
        video = None
        with faults.collect():
            video = self.ref(faults)
            reader, listing = Video(video), list_frames(self.root / self.path)
            for note in listing.notes if self._frames is None else ():
                faults.note(str(self.root / self.path), note)
            for i, frame in enumerate(video.frames):
                if frame in listing.files:  # a missing frame is collected already
                    with faults.collect():
                        where = f"{self.where}.frames[{i}]"
                        _check_size(self.root / self.path / listing.files[frame], video, where)
                        if faults.decodes(i):
                            with _in_record(where):
                                reader.frame(i)
        return video


class FramesOfFile:
    """The frames 0, n, 2n, .. of the video file `root/path`, with n = `stride`."""

    def __init__(self, root: Path, path: str, stride: int, where: str):
        """Store the names; nothing is opened.

        Args:
            root: of the data set; nothing outside of it is opened.
            path: of the video file, relative to the root.
            stride: n; every n-th frame is used.
            where: file and record, for errors.

        Raises:
            DataError: the path leads out of the root.
        """
        self.root, self.path, self.stride, self.where = root, path, stride, where
        check_path(path, where)

    def ref(self, faults: Faults = RAISE) -> VideoRef:
        """Return the video. Opens the file once, to count its frames and to decode the first one."""
        return self._ref

    @cached_property
    def _ref(self) -> VideoRef:
        path = self.root / self.path
        check_links(self.root, self.path, self.where)
        if not path.is_file():
            raise DataError(self.where, f"expected the video {path}, found none")
        file, height, width = self._open()
        num_frames = -(-len(file) // self.stride)
        return VideoRef(str(self.root), self.path, (), num_frames, height, width, self.stride)

    def _open(self) -> tuple[VideoFile, int, int]:
        """The file with its height and width."""
        with _in_record(self.where):
            file = VideoFile(self.root / self.path)
            height, width = file.frame(0).shape[:2]
        return file, height, width

    def check(self, faults: Faults) -> VideoRef | None:
        """Collect a fault for a file that cannot be read, and for frames that cannot be decoded or differ in size."""
        video = None
        with faults.collect():
            video = self.ref()
            file, height, width = self._open()
            for note in file.notes:
                faults.note(str(self.root / self.path), note)
            for t in range(video.num_frames):
                if faults.decodes(t):
                    with faults.collect():
                        _check_pixels(file, t * self.stride, (height, width), self.where)
        return video


def _check_pixels(file: VideoFile, frame_idx: int, size: tuple[int, int], where: str) -> None:
    """Decode a frame. DataError if that fails, or if it has another (height, width)."""
    with _in_record(where):
        found = file.frame(frame_idx).shape[:2]
        if found != size:
            problem = f"frame {frame_idx} is {found[1]}x{found[0]}, the first one {size[1]}x{size[0]}"
            raise DataError(str(file.path), problem)


def folder_of(root: Path, path: str, record: Any, where: str) -> FrameFolder:
    """Return the frames that a record of an expression file names.

    Args:
        root: of the data set.
        path: of the video's folder, relative to the root.
        record: has `frames`, and optionally `height` and `width`.
        where: file and record, for errors.

    Returns:
        The folder; it is read on use.

    Raises:
        DataError: the record or the path is broken.
    """
    frames = field(record, "frames", list, where)
    for i, frame in enumerate(frames):
        if not isinstance(frame, str):
            raise DataError(f"{where}.frames[{i}]", f"expected a frame name without suffix, found {frame!r:.80}")
        check_name(frame, f"{where}.frames[{i}]")
    if not frames or any(a >= b for a, b in pairwise(frames)):
        raise DataError(
            f"{where}.frames", "expected frame names in string order, each once, because masks follow that order"
        )
    size = None
    if "height" in record or "width" in record:
        size = (field(record, "height", int, where), field(record, "width", int, where))
        if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
            raise DataError(f"{where}.height", f"expected a frame of 1 to {MAX_PIXELS} pixels, found {size}")
    return FrameFolder(root, path, tuple(frames), size, where)


def _check_size(path: Path, video: VideoRef, where: str) -> None:
    height, width = _image_size(path, where)
    if (height, width) != (video.height, video.width):
        problem = f"expected {video.width}x{video.height}, the size of its video, found {width}x{height}"
        raise DataError(f"{path}: {_record(where)}", problem)


def _image_size(path: Path, where: str) -> tuple[int, int]:
    """Return (height, width) of an image from its header."""
    with _in_record(where):
        width, height = image_size(path)
        return height, width


@contextmanager
def _in_record(where: str) -> Iterator[None]:
    """Add the record to a DataError that names a file alone."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{error.where}: {_record(where)}", error.problem) from error


def _record(where: str) -> str:
    """The part of `<file>: <record>` after the file."""
    return where.rpartition(": ")[2]
