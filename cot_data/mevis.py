"""Read any data set in the MeViS layout: `meta_expressions.json`, `mask_dict.json`, `JPEGImages/<video>/<frame>.jpg`.

Where our own `moving_shapes.json` lies beside them, its labels are taken up. Without `mask_dict.json`, or for an
expression without `anno_id`, the gold masks are unknown; an empty `anno_id` means that nothing matches.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from cot_data.fields import field, read_json
from env.errors import DataError
from env.rle import encode, union
from env.types import RLE, Task, VideoRef

META, MASKS, LABELS, IMAGES = "meta_expressions.json", "mask_dict.json", "moving_shapes.json", "JPEGImages"


def load_mevis(root: Path) -> list[Task]:
    """Every expression of a data set as a task: videos in file order, expressions in string order ("10" < "2").

    DataError names the file, record and field of the first fault found.
    """
    root = Path(root).absolute()
    videos = field(read_json(root / META), "videos", dict, str(root / META))
    gold = Gold(root / MASKS) if (root / MASKS).is_file() else None
    labels = read_json(root / LABELS)["videos"] if (root / LABELS).is_file() else {}
    tasks = []
    for name, record in videos.items():
        where = f"{root / META}: videos[{name!r}]"
        expressions = field(record, "expressions", dict, where)
        video = video_of(root, name, record, where)
        for exp_id in sorted(expressions):
            spot = f"{where}.expressions[{exp_id!r}]"
            label = labels.get(name, {}).get("expressions", {}).get(exp_id, {})
            tasks.append(
                Task(
                    task_id=f"{root.name}/{name}/{exp_id}",
                    video=video,
                    expression=field(expressions[exp_id], "exp", str, spot),
                    gold=gold.of(_anno_ids(expressions[exp_id], spot), video, spot) if gold else (),
                    **_label(label, video, f"{root / LABELS}: videos[{name!r}].expressions[{exp_id!r}]"),
                )
            )
    return tasks


def _anno_ids(expression: dict[str, Any], where: str) -> tuple[str, ...] | None:
    """Keys of the mask dictionary: a list, or a bare number or string; None where there is no such field."""
    if "anno_id" not in expression:
        return None
    value = field(expression, "anno_id", (list, int, str), where)
    ids = value if isinstance(value, list) else [value]
    for each in ids:
        if not isinstance(each, (int, str)) or isinstance(each, bool):
            raise DataError(f"{where}.anno_id", f"expected numbers or strings, found {each!r}")
    return tuple(str(each) for each in ids)


def _label(label: dict[str, Any], video: VideoRef, where: str) -> dict[str, Any]:
    """The task fields that only Moving Shapes knows."""
    if not label:
        return {}
    evidence = tuple(field(label, "evidence", list, where))
    for t in evidence:
        if not isinstance(t, int) or not 0 <= t < video.num_frames:
            raise DataError(f"{where}.evidence", f"expected frames 0 to {video.num_frames - 1}, found {t!r}")
    texts = {name: field(label, name, str, where) for name in ("family", "explore", "caption")}
    return {**texts, "evidence": evidence}


def _video_ref(root: Path, name: str, frames: list[Any], where: str) -> VideoRef:
    """A folder of JPEGs under `root/JPEGImages`; its frames must exist, its size is that of the first one."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise DataError(where, f"the video name {name!r} leaves the data root")
    folder = root / IMAGES / name
    if not folder.resolve().is_relative_to(root.resolve()):
        raise DataError(where, f"{folder} leads out of the data root")
    if not folder.is_dir():
        raise DataError(where, f"expected the folder {folder}, found none")
    found = {path.name for path in folder.iterdir()}
    for i, frame in enumerate(frames):
        if not isinstance(frame, str) or "/" in frame or "\\" in frame:
            raise DataError(f"{where}.frames[{i}]", f"expected a frame name without suffix, found {frame!r}")
        if f"{frame}.jpg" not in found:
            raise DataError(f"{where}.frames[{i}]", f"frame {folder / frame}.jpg is missing")
    if not frames or any(a >= b for a, b in pairwise(frames)):
        raise DataError(f"{where}.frames", "expected frame names, each once and in string order: masks are told by it")
    width, height = _image_size(folder / f"{frames[0]}.jpg")
    return VideoRef(str(root), f"{IMAGES}/{name}", tuple(frames), len(frames), height, width)


def _image_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path, formats=("JPEG",)) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(str(path), f"expected a JPEG, found something else ({error})") from error


def video_of(root: Path, name: str, record: dict[str, Any], where: str) -> VideoRef:
    """The video of one record of `meta_expressions.json`, its frames and its size checked."""
    video = _video_ref(root, name, field(record, "frames", list, where), where)
    for side, actual in (("height", video.height), ("width", video.width)):
        if side in record and field(record, side, int, where) != actual:
            raise DataError(f"{where}.{side}", f"expected {actual} as in the first frame, found {record[side]}")
    return video


class Gold:
    """A mask dictionary: checked on use, and merged once per set of annotations."""

    def __init__(self, path: Path):
        self._path = path
        self._masks = read_json(path)
        if not isinstance(self._masks, dict):
            raise DataError(str(path), f"expected an object of masks by anno_id, found {type(self._masks).__name__}")
        self._done: dict[tuple[str, ...], tuple[RLE | None, ...]] = {}

    def of(self, anno_ids: tuple[str, ...] | None, video: VideoRef, where: str) -> tuple[RLE | None, ...]:
        """Per frame the union over `anno_ids`, None where all are absent; () where the ids are unknown."""
        if anno_ids is None:
            return ()
        key = (video.path, *anno_ids)
        if key not in self._done:
            lists_NT = [self._checked(anno_id, video, where) for anno_id in anno_ids]
            if len(lists_NT) == 1:
                self._done[key] = tuple(lists_NT[0])
            else:
                frames = range(video.num_frames)
                self._done[key] = tuple(union([rles[t] for rles in lists_NT], f"{where}, frame {t}") for t in frames)
        return self._done[key]

    def _checked(self, anno_id: str, video: VideoRef, where: str) -> list[RLE | None]:
        if anno_id not in self._masks:
            raise DataError(f"{where}.anno_id", f"{self._path} has no masks under {anno_id!r}")
        rles, spot = self._masks[anno_id], f"{self._path}: [{anno_id!r}]"
        if not isinstance(rles, list) or len(rles) != video.num_frames:
            found = f"{len(rles)} entries" if isinstance(rles, list) else type(rles).__name__
            raise DataError(spot, f"expected a list of {video.num_frames} masks, one per frame, found {found}")
        size = [video.height, video.width]
        empty = encode(np.zeros(size, bool))["counts"]
        for t, rle in enumerate(rles):
            if rle is None:
                continue
            if not isinstance(rle, dict) or not isinstance(rle.get("counts"), str) or "size" not in rle:
                raise DataError(f"{spot}[{t}]", 'expected null or {"size": [h, w], "counts": STR}')
            if rle["size"] != size:
                raise DataError(f"{spot}[{t}].size", f"expected {size} as the frames are, found {rle['size']}")
        return [None if rle is None or rle["counts"] == empty else rle for rle in rles]
