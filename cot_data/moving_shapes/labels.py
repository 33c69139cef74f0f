"""Load the videos of Moving Shapes with all of their objects: name, motion, marks and masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cot_data.datasets.mevis import MASKS, expression_file
from cot_data.faults import RAISE, Faults
from cot_data.formats.json_fields import field
from cot_data.formats.mask_table import MaskTable, TableGold
from cot_data.moving_shapes.labels_file import LABELS, frames_of, read_labels
from cot_data.moving_shapes.predicates import MIN_VISIBLE_AREA
from env.rle import check, decode
from env.types import RLE, VideoRef


@dataclass(frozen=True)
class LabelledObject:
    """One object; `marks` has the frames of each mark ("flash" or "checkered")."""

    caption: str
    motion: str
    marks: dict[str, tuple[int, ...]]
    masks: tuple[RLE | None, ...]

    def mask(self, frame_idx: int) -> np.ndarray | None:
        """Return its visible pixels, bool [H, W]; None if they are too few to recognise it."""
        rle = self.masks[frame_idx]
        if rle is None:
            return None
        mask_HW = decode(rle)
        return mask_HW if mask_HW.sum() >= MIN_VISIBLE_AREA else None

    def marks_at(self, frame_idx: int) -> list[str]:
        """Return its marks in a frame, sorted."""
        return [mark for mark, frames in sorted(self.marks.items()) if frame_idx in frames]


@dataclass(frozen=True)
class LabelledVideo:
    """A video and its objects, sorted by caption."""

    video: VideoRef
    objects: tuple[LabelledObject, ...]


def load_objects(root: Path, faults: Faults = RAISE) -> list[LabelledVideo]:
    """Return the videos of a Moving Shapes folder with all of their objects. DataError if the labels are missing.

    `faults` raises the first video that cannot be read, or collects them and leaves them out.
    """
    root = Path(root).absolute()
    layout = expression_file(root)
    labels = read_labels(root)
    masks = MaskTable(root / MASKS)
    out = []
    for name, record in layout.videos().items():
        where = f"{root / LABELS}: videos[{name!r}]"
        with faults.collect():
            video = layout.folder(name, record, f"{layout.file}: videos[{name!r}]").ref()
            objects = field(field(labels, name, dict, str(root / LABELS)), "objects", dict, where)
            found = [
                _object(label, anno_id, masks, video, f"{where}.objects[{anno_id!r}]")
                for anno_id, label in objects.items()
            ]
            out.append(LabelledVideo(video, tuple(sorted(found, key=lambda each: each.caption))))
    return out


def _object(label: Any, anno_id: str, masks: MaskTable, video: VideoRef, where: str) -> LabelledObject:
    marks = field(label, "marks", dict, where)
    tracklet = TableGold(masks, (anno_id,)).masks(video, where)
    for t, rle in enumerate(tracklet):
        if rle is not None:
            check(rle, f"{where}, mask of frame {t}")
    return LabelledObject(
        field(label, "caption", str, where),
        field(label, "motion", str, where),
        {mark: frames_of(marks, mark, video.num_frames, f"{where}.marks") for mark in marks},
        tracklet,
    )
