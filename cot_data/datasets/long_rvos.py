"""Load Long-RVOS; the root is the folder of one split: `Long-RVOS/{train,valid,test}`.

It has `meta_expressions.json`, `JPEGImages/<video>/<frame>.jpg` and `Annotations/<video>/<obj_id>/<frame>.png` (black
and white, no file where the object is absent). VideoSEG-O3 trains on the same split in the form of
`meta_expressions_with_anno.json` and `mask_dict.json`; if these exist, they are used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cot_data.faults import RAISE, Faults
from cot_data.formats.expression_file import Expression, ExpressionFile, gold_by_anno_id, unknown_gold
from cot_data.formats.png_masks import PngGold, PngTrack
from cot_data.tasks import Gold, Tasks

META, META_WITH_ANNO = "meta_expressions.json", "meta_expressions_with_anno.json"
SUBSETS = {name: name for name in ("static", "dynamic", "hybrid")}  # by `type`


def load_long_rvos(root: Path, faults: Faults = RAISE) -> Tasks:
    """Return every expression of the split, with `type` as its subset."""

    def gold_by_folder(expression: Expression) -> Gold:
        folder = f"Annotations/{expression.video}"
        return PngGold(tuple(PngTrack(root, f"{folder}/{obj_id}", None, True) for obj_id in expression.obj_ids()))

    has_anno = (root / META_WITH_ANNO).is_file()
    layout = ExpressionFile(root.name, root / (META_WITH_ANNO if has_anno else META), root, "JPEGImages", _subset)
    gold = gold_by_folder if (root / "Annotations").is_dir() else unknown_gold
    if has_anno:
        gold = gold_by_anno_id(root, faults)
    return Tasks(layout.entries(layout.videos(), gold, faults))


def _subset(expression: Expression) -> dict[str, Any]:
    return {"subset": expression.choice("type", SUBSETS)}
