"""Gold of the data sets whose expressions name an object of a palette PNG, and of the dictionaries made from them.

Ref-YouTube-VOS and Ref-DAVIS17 publish PNGs and `obj_id`; VideoSEG-O3 and its kin keep the same masks in a
`mask_dict.pkl` whose keys count the expressions: videos in file order, expressions in string order.
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
    """Masks of the dictionary in `folder` under the running number of each expression; None without a dictionary.

    Others count over sorted videos, so the file must be sorted for the numbers to mean the same to all: DataError.
    """
    table = mask_table(folder, faults)
    if table is None:
        return None
    with faults.noted():
        for before, after in pairwise(videos):
            if before >= after:
                problem = f"expected videos in string order, because masks are counted by it, found {after!r} too late"
                raise DataError(f"{where}.videos", problem)
    numbers = count()
    anno_ids = {}
    for name, record in videos.items():
        expressions = record.get("expressions") if isinstance(record, dict) else None
        for exp_id in sorted(expressions) if isinstance(expressions, dict) else ():
            anno_ids[name, exp_id] = str(next(numbers))
    return lambda expression: TableGold(table, (anno_ids[expression.video, expression.exp_id],))


def gold_by_obj_id(root: Path, annotations: str) -> GoldOf:
    """Masks of `root/annotations/<video>/<frame>.png` at the pixels of an expression's `obj_id`."""

    def gold(expression: Expression) -> Gold:
        values = expression.obj_ids()
        if not all(value.isdecimal() and 0 < int(value) < 255 for value in values):  # 255 is void in some files
            problem = f"expected palette values from 1 to 254, found {', '.join(values)}"
            raise DataError(f"{expression.where}.obj_id", problem)
        folder = f"{annotations}/{expression.video}"
        return PngGold(tuple(PngTrack(root, folder, int(value)) for value in values))

    return gold
