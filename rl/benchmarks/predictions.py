"""Read masks that another system wrote: `<video>/<expression>/<frame>.png`, or VideoSEG-O3's `results.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cot_data.formats.json_fields import field, read_json
from env.errors import DataError
from env.outside_names import check_path
from env.rle import decode, encode
from env.types import RLE, Task, names_in
from rl.benchmarks.expression_scores import Prediction, frame_names, missing


class PngPredictions:
    """A folder of PNGs: 0 is background, any other value or palette entry is the target.

    The video folders lie in it or in its `Annotations/`. A frame without a file has an empty mask.
    """

    def __init__(self, folder: Path):
        self._folder = folder / "Annotations" if (folder / "Annotations").is_dir() else folder

    def of(self, task: Task) -> Prediction:
        """Return the masks of one expression. DataError where a file is no mask of the video's size."""
        check_path(task.task_id, task.task_id)
        folder = self._folder.joinpath(*names_in(task.task_id))
        files = [folder / f"{name}.png" for name in frame_names(task)]
        masks = [_read_png(file, task) if file.is_file() else None for file in files]
        if masks.count(None) == len(masks):
            return missing(task)
        return Prediction(tuple(masks), num_missing_frames=masks.count(None))


class JsonPredictions:
    """VideoSEG-O3's `results.json`: {video: {expression: {"prediction_masks": [RLE of each frame]}}}."""

    def __init__(self, path: Path):
        self._path = path
        self._videos = read_json(path)
        if not isinstance(self._videos, dict):
            raise DataError(str(path), "expected {video: {expression: {..}}}")

    def of(self, task: Task) -> Prediction:
        """Return the masks of one expression. DataError where they do not fit its video."""
        video, expression = names_in(task.task_id)
        where = f"{self._path}: [{video!r}][{expression!r}]"
        record = self._videos.get(video, {})
        if not isinstance(record, dict):
            raise DataError(f"{self._path}: [{video!r}]", "expected an object of expressions")
        if expression not in record:
            return missing(task)
        masks = field(record[expression], "prediction_masks", list, where)
        if len(masks) != task.video.num_frames:
            raise DataError(f"{where}.prediction_masks", f"expected {task.video.num_frames} masks, found {len(masks)}")
        checked = [_checked(rle, task, f"{where}.prediction_masks[{t}]") for t, rle in enumerate(masks)]
        return Prediction(tuple(checked))


def open_predictions(path: Path) -> PngPredictions | JsonPredictions:
    """Open a folder of PNGs, a folder with VideoSEG-O3's `results.json`, or such a file. DataError where none is."""
    if path.is_file():
        return JsonPredictions(path)
    if (path / "results.json").is_file():
        return JsonPredictions(path / "results.json")
    if not path.is_dir():
        raise DataError(str(path), "expected a folder of predicted masks, found none")
    return PngPredictions(path)


def _checked(rle: Any, task: Task, where: str) -> RLE | None:
    if rle is None:
        return None
    if not isinstance(rle, dict):
        raise DataError(where, f"expected a mask in run-length encoding, found {type(rle).__name__}")
    mask_HW = decode(rle, where)
    _check_size(mask_HW.shape, task, where)
    return rle


def _read_png(path: Path, task: Task) -> RLE:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            _check_size((image.height, image.width), task, str(path))  # before anything is decoded
            if image.mode not in ("1", "L", "P"):
                raise DataError(str(path), f"expected grey values or a palette, found mode {image.mode}")
            return encode(np.asarray(image) > 0)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(str(path), f"expected a PNG file; it cannot be read ({error})") from error


def _check_size(size: tuple[int, ...], task: Task, where: str) -> None:
    wanted = (task.video.height, task.video.width)
    if size != wanted:
        found = " x ".join(map(str, size))
        raise DataError(
            where,
            f"expected {wanted[0]} x {wanted[1]}, the size of the gold masks, found {found}; resize by nearest pixel",
        )
