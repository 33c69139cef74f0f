"""Read masks from PNG files, one per frame: palette images whose pixel values are object ids, or black and white."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cot_data.faults import RAISE, Faults
from env.data_root import check_links
from env.errors import DataError
from env.media.image_file import open_image
from env.outside_names import check_path
from env.rle import encode, union
from env.types import RLE, VideoRef


@dataclass(frozen=True)
class PngTrack:
    """One object's masks in `root/folder/<frame>.png`.

    The object's pixels have the value `value`, or any value but 0 if that is None. With `absent_without_file`, a frame
    without a file does not show the object; otherwise every frame must have a file.
    """

    root: Path
    folder: str
    value: int | None = None
    absent_without_file: bool = False

    def mask(self, frame: str, video: VideoRef, where: str) -> RLE | None:
        """Return the mask of one frame.

        Args:
            frame: its name, without suffix.
            video: whose size the mask must have.
            where: the record, for errors.

        Returns:
            The RLE, None where the object is absent.

        Raises:
            DataError: the file is missing, broken or has another size.
        """
        path = self.root / self.folder / f"{frame}.png"
        if self.absent_without_file and not os.path.lexists(path):
            return None
        return object_mask(path, self.value, video, where)


@dataclass(frozen=True)
class PngGold:
    """A target that is the union of one or more objects."""

    tracks: tuple[PngTrack, ...]

    def masks(self, video: VideoRef, where: str, faults: Faults = RAISE) -> tuple[RLE | None, ...]:
        """Read the masks; see `cot_data.tasks.Gold`."""
        for track in self.tracks:
            check_folder(track.root, track.folder, where)
        union_T: list[RLE | None] = []
        for t, frame in enumerate(video.frames):
            union_T.append(None)
            with faults.collect():
                masks = [track.mask(frame, video, f"{where}, frame {t}") for track in self.tracks]
                union_T[t] = masks[0] if len(masks) == 1 else union(masks, f"{where}, frame {t}")
        return tuple(union_T)

    def check(self, video: VideoRef, where: str, faults: Faults) -> None:
        """Collect the faults of all masks; see `cot_data.tasks.Gold`."""
        self.masks(video, where, faults)


def check_folder(root: Path, folder: str, where: str) -> None:
    """Raise a DataError unless `root/folder` is a folder inside the root.

    Args:
        root: of the data set.
        folder: path relative to the root.
        where: the record, for errors.

    Raises:
        DataError: there is no such folder, or it is outside of the root.
    """
    check_path(folder, where)
    check_links(root, folder, where)
    path = root / folder
    if not path.is_dir():
        raise DataError(where, f"expected the folder of masks {path}, found none")


def object_mask(path: Path, value: int | None, video: VideoRef, where: str) -> RLE | None:
    """Return the mask of one object in a PNG.

    Args:
        path: of the PNG.
        value: pixel value of the object; None for every value but 0.
        video: whose size the PNG must have.
        where: the record, for errors.

    Returns:
        The RLE, None if no pixel has the value.

    Raises:
        DataError: the file is missing, broken or has another size.
    """
    ids_HW = read_ids(path, where)
    if ids_HW.shape != (video.height, video.width):
        found = f"{ids_HW.shape[1]}x{ids_HW.shape[0]}"
        problem = f"expected {video.width}x{video.height}, the size of the frames, found {found}"
        raise DataError(_error_where(path, where), problem)
    hit_HW = ids_HW != 0 if value is None else ids_HW == value
    return encode(hit_HW) if hit_HW.any() else None


def read_ids(path: Path, where: str = "") -> np.ndarray:
    """Return the object ids [H, W] of a palette PNG. `where` names its record in errors. Raises DataError."""
    where = _error_where(path, where)
    if not os.path.lexists(path):
        raise DataError(where, "expected the masks of the frame with that name, found none")
    try:
        with open_image(path, ("PNG",)) as image:
            if image.mode not in ("P", "L", "1"):
                raise DataError(str(path), f"expected a palette or grey PNG, found mode {image.mode}")
            return np.array(image)
    except DataError as error:
        raise DataError(where, error.problem) from error


def _error_where(path: Path, where: str) -> str:
    return f"{path}: {where.rpartition(': ')[2]}" if where else str(path)
