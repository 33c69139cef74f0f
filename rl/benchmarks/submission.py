"""Write the archive for an evaluation server, for tasks whose gold masks are not published."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from env.files import replace_file
from env.outside_names import check_path
from env.rle import mask_or_empty
from env.types import Task, names_in
from rl.benchmarks.expression_scores import Prediction, frame_names
from rl.benchmarks.protocols import BenchmarkProtocol

_DATE = (1980, 1, 1, 0, 0, 0)  # the same masks make the same file


def write_submission(protocol: BenchmarkProtocol, predicted: Iterable[tuple[Task, Prediction]], path: Path) -> int:
    """Write `<video>/<expression>/<frame>.png` (0/255) of every frame.

    Args:
        protocol: Of the benchmark; `zip_folder` is where the video folders lie.
        predicted: Tasks with their predictions. A missing one becomes empty masks, since a server refuses gaps.
        path: Of the archive, which appears once it is complete.

    Returns:
        How many predictions were missing.
    """
    num_missing = 0
    with replace_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for task, prediction in predicted:
            num_missing += prediction.is_missing
            folder = "/".join(filter(None, (protocol.zip_folder, *names_in(task.task_id))))
            for name, rle in zip(frame_names(task), prediction.masks, strict=True):
                pixels = mask_or_empty(rle, task.video.height, task.video.width).astype(np.uint8) * 255
                png = io.BytesIO()
                Image.fromarray(pixels).save(png, "PNG")
                check_path(f"{task.task_id}/{name}", task.task_id)
                archive.writestr(zipfile.ZipInfo(f"{folder}/{name}.png", _DATE), png.getvalue())
    return num_missing
