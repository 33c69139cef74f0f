"""Load Ref-SAV. The evaluation set is a folder with `meta_expressions_valid.json`, `mask_dict.json` and `videos/`.

The training set is a folder with `Ref-SAV.json` and, below it, the SA-V videos and annotations that it names: one
`.mp4` and one `_manual.json` per video. Only every fourth frame of a video is used, because SA-V annotates those.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from cot_data.faults import RAISE, Faults
from cot_data.formats.expression_file import Expression, ExpressionFile, gold_by_anno_id
from cot_data.formats.frame_folder import FramesOfFile
from cot_data.formats.json_fields import field, read_json
from cot_data.formats.mask_table import empty_counts
from cot_data.tasks import Entry, Outline, Tasks
from env.data_root import check_links
from env.errors import DataError
from env.outside_names import check_path
from env.rle import decode
from env.types import RLE, VideoRef

TRAIN, META = "Ref-SAV.json", "meta_expressions_valid.json"
STRIDE = 4  # SA-V annotates 6 of the 24 frames of a second
SUBSETS = {0: "long", 1: "short"}  # by `type_id`
_CACHED_FILES = 4  # annotation files in memory, several MB each; the expressions of a video are consecutive


def load_ref_sav(root: Path, faults: Faults = RAISE) -> Tasks:
    """Return every expression: of the training set if the root has `Ref-SAV.json`, else of the evaluation set."""
    if (root / TRAIN).is_file():
        return Tasks(_train_entries(root, faults))
    layout = ExpressionFile(root.name, root / META, root, "videos", _subset)
    return Tasks(layout.entries(layout.videos(), gold_by_anno_id(root, faults), faults))


def _subset(expression: Expression) -> dict[str, Any]:
    return {"subset": expression.choice("type_id", SUBSETS)}


def _train_entries(root: Path, faults: Faults) -> list[Entry]:
    file = root / TRAIN
    check_links(root, TRAIN, str(file))
    videos = read_json(file)
    if not isinstance(videos, dict):
        raise DataError(str(file), f"expected an object of videos, found {type(videos).__name__}")
    found = []
    for name, record in videos.items():
        where = f"{file}: videos[{name!r}]"
        with faults.collect():
            check_path(name, where)
            video_path = _unpacked_path(field(record, "video_path", str, where))
            anno_path = _unpacked_path(field(record, "anno_path", str, where))
            check_path(anno_path, f"{where}.anno_path")
            footage = FramesOfFile(root, video_path, STRIDE, f"{where}.video_path")
            objects = field(record, "objects", dict, where)
            for key in sorted(objects):
                object_where = f"{where}.objects[{key!r}]"
                with faults.collect():
                    if not key.isdecimal():
                        raise DataError(object_where, f"expected the number of a masklet as key, found {key!r}")
                    outline = Outline(f"{root.name}/{name}/{key}", field(objects[key], "formated", str, object_where))
                    found.append(Entry(outline, footage, MaskletGold(root, anno_path, int(key)), object_where))
    return found


def _unpacked_path(path: str) -> str:
    """The path in the unpacked archive, `sav_train/sav_000/..`; the file has `sav_000/sav_train/sav_000/..`."""
    parts = list(PurePosixPath(path).parts)
    at = parts.index("sav_train") if "sav_train" in parts else 0
    if at and parts[at - 1 : at] == parts[at + 1 : at + 2]:
        del parts[at - 1]
    return "/".join(parts)


@dataclass(frozen=True)
class MaskletGold:
    """One object of an SA-V annotation file: `masklet` is a list over frames of a list of RLEs, one per object."""

    root: Path
    path: str
    number: int

    def masks(self, video: VideoRef, where: str, faults: Faults = RAISE) -> tuple[RLE | None, ...]:
        """Read the masks; see `cot_data.tasks.Gold`."""
        path = self.root / self.path
        check_links(self.root, self.path, where)
        frames = _masklet(path)
        if len(frames) != video.num_frames:
            problem = f"expected masks of {video.num_frames} frames, every {STRIDE}th of the video, found {len(frames)}"
            raise DataError(f"{path}: masklet", problem)
        found: list[RLE | None] = []
        for t, rles in enumerate(frames):
            found.append(None)
            with faults.collect():
                frame_where = f"{path}: masklet[{t}]"
                if not isinstance(rles, list) or self.number >= len(rles):
                    count = len(rles) if isinstance(rles, list) else 0
                    raise DataError(
                        frame_where, f"expected a mask of object {self.number}, found masks of {count} objects"
                    )
                found[t] = _checked(rles[self.number], video, f"{frame_where}[{self.number}]")
        return tuple(found)

    def check(self, video: VideoRef, where: str, faults: Faults) -> None:
        """Collect the faults of all masks; see `cot_data.tasks.Gold`."""
        for t, rle in enumerate(self.masks(video, where, faults)):
            if rle is not None:
                with faults.collect():
                    decode(rle, f"{self.root / self.path}: masklet[{t}][{self.number}]")


def _checked(rle: Any, video: VideoRef, where: str) -> RLE | None:
    if not isinstance(rle, dict) or not isinstance(rle.get("counts"), str):
        raise DataError(where, 'expected {"size": [h, w], "counts": STR}')
    if rle.get("size") != [video.height, video.width]:
        problem = f"expected {[video.height, video.width]}, the size of the frames, found {rle.get('size')}"
        raise DataError(f"{where}.size", problem)
    return None if rle["counts"] == empty_counts(video.height, video.width) else rle


@lru_cache(_CACHED_FILES)
def _masklet(path: Path) -> list[Any]:
    return field(read_json(path), "masklet", list, str(path))
