"""Find the masks of expressions that name an object of palette PNGs, or that a mask dictionary numbers.

Ref-YouTube-VOS and Ref-DAVIS17 publish PNGs and `obj_id`. VideoSEG-O3 and similar programs store the same masks in a
`mask_dict.pkl` whose keys number the expressions: videos in file order, expressions in string order.
"""

from __future__ import annotations

from itertools import count, pairwise
from pathlib import Path
from typing import Any

from cot_data.faults import Faults
from cot_data.formats.expression_file import Expression, GoldOf, mask_table
from cot_data.formats.mask_table import TableGold
from cot_data.formats.png_masks import PngGold, PngTrack
from cot_data.tasks import Gold
from env.errors import DataError


def gold_by_counting(folder: Path, videos: dict[str, Any], where: str, faults: Faults) -> GoldOf | None:
    """Return a function that looks up an expression by its running number in a mask dictionary.

    Args:
        folder: has the dictionary.
        videos: records by video name, in file order. It must be string order, which other programs count in.
        where: the metadata file, for errors.
        faults: raises the first fault, or collects them and continues.

    Returns:
        The function; None without a dictionary.

    Raises:
        DataError: the videos are not in string order, or the dictionary is broken.
    """
    table = mask_table(folder, faults)
    if table is None:
        return None
    with faults.collect():
        for before, after in pairwise(videos):
            if before >= after:
                problem = f"expected videos in string order, which numbers the masks, found {after!r} after {before!r}"
                raise DataError(f"{where}.videos", problem)
    numbers = count()
    anno_ids = {}
    for name, record in videos.items():
        expressions = record.get("expressions") if isinstance(record, dict) else None
        for exp_id in sorted(expressions) if isinstance(expressions, dict) else ():
            anno_ids[name, exp_id] = str(next(numbers))
    return lambda expression: TableGold(table, (anno_ids[expression.video, expression.exp_id],))


def gold_by_obj_id(root: Path, annotations: str) -> GoldOf:
    """Return a function that finds an expression's masks by `obj_id` in `root/annotations/<video>/<frame>.png`."""

    def gold(expression: Expression) -> Gold:
        values = expression.obj_ids()
        if not all(value.isdecimal() and 0 < int(value) < 255 for value in values):  # 255 is void in some files
            problem = f"expected palette values from 1 to 254, found {', '.join(values)}"
            raise DataError(f"{expression.where}.obj_id", problem)
        folder = f"{annotations}/{expression.video}"
        return PngGold(tuple(PngTrack(root, folder, int(value)) for value in values))

    return gold
