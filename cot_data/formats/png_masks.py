"""Masks as PNG files, one per frame: palette images in which a pixel is its object's id, or black and white ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cot_data.faults import RAISE, Faults
from cot_data.formats.frame_folder import check_inside
from env.errors import DataError
from env.rle import encode, union
from env.types import RLE, VideoRef


@dataclass(frozen=True)
class PngTrack:
    """One object's masks in `root/folder/<frame>.png`.

    Its pixels are those of `value`, or all that are not 0 where that is None. With `absent_without_file` a frame that
    has no file does not show the object; else every frame must have one.
    """

    root: Path
    folder: str
    value: int | None = None
    absent_without_file: bool = False

    def mask(self, frame: str, video: VideoRef, where: str) -> RLE | None:
        """The mask of one frame, None where the object is absent. DataError."""
        path = self.root / self.folder / f"{frame}.png"
        if self.absent_without_file and not path.is_file():
            return None
        return object_mask(path, self.value, video, where)


@dataclass(frozen=True)
class PngGold:
    """The target is the union of one or more objects."""

    tracks: tuple[PngTrack, ...]

    def masks(self, video: VideoRef, where: str, faults: Faults = RAISE) -> tuple[RLE | None, ...]:
        for track in self.tracks:
            check_folder(track.root, track.folder, where)
        together: list[RLE | None] = []
        for t, frame in enumerate(video.frames):
            together.append(None)
            with faults.noted():
                masks = [track.mask(frame, video, f"{where}, frame {t}") for track in self.tracks]
                together[t] = masks[0] if len(masks) == 1 else union(masks, f"{where}, frame {t}")
        return tuple(together)

    def check(self, video: VideoRef, where: str, faults: Faults) -> None:
        self.masks(video, where, faults)


def check_folder(root: Path, folder: str, where: str) -> None:
    """DataError unless `root/folder` is a folder inside the root."""
    check_inside(folder, where)
    path = root / folder
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(where, f"{path} leads out of the data root")
    if not path.is_dir():
        raise DataError(where, f"expected the folder of masks {path}, found none")


def object_mask(path: Path, value: int | None, video: VideoRef, where: str) -> RLE | None:
    """The pixels of `value` (None: all that are not 0) in one PNG; None where there are none. DataError."""
    ids_HW = read_ids(path, where)
    if ids_HW.shape != (video.height, video.width):
        found = f"{ids_HW.shape[1]}x{ids_HW.shape[0]}"
        raise DataError(_spot(path, where), f"expected {video.width}x{video.height} as the frames are, found {found}")
    hit_HW = ids_HW != 0 if value is None else ids_HW == value
    return encode(hit_HW) if hit_HW.any() else None


def read_ids(path: Path, where: str = "") -> np.ndarray:
    """Object ids [H, W] of a palettised PNG; `where` names the record that it belongs to in errors."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode not in ("P", "L", "1"):
                raise DataError(_spot(path, where), f"expected a palettised or grey PNG, found mode {image.mode}")
            return np.array(image)
    except FileNotFoundError as error:
        raise DataError(_spot(path, where), "expected the masks of the frame of that name, found none") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(_spot(path, where), f"expected a PNG, found something else ({error})") from error


def _spot(path: Path, where: str) -> str:
    return f"{path}: {where.rpartition(': ')[2]}" if where else str(path)
