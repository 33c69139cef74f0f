"""Load Ref-DAVIS17; the root is `<folder>/<split>` with the split train or valid.

The folder has `<split>/{JPEGImages,Annotations}/<sequence>/<frame>.{jpg,png}` (palette images whose pixel values are
object ids), `meta_expressions/<split>/meta_expressions.json` and, optionally, `<split>/mask_dict.pkl`.
"""

from __future__ import annotations

from pathlib import Path

from cot_data.faults import RAISE, Faults
from cot_data.formats.expression_file import ExpressionFile, split_of
from cot_data.formats.object_ids import gold_by_counting, gold_by_obj_id
from cot_data.tasks import Tasks

META = "meta_expressions/{split}/meta_expressions.json"


def load_ref_davis17(root: Path, faults: Faults = RAISE) -> Tasks:
    """Return every expression of the split; valid has 244, four for each of 61 objects."""
    folder, meta = split_of(root, META)
    layout = ExpressionFile(root.name, meta, folder, f"{root.name}/JPEGImages")
    videos = layout.videos()
    annotations = gold_by_obj_id(folder, f"{root.name}/Annotations")
    gold = gold_by_counting(root, videos, str(meta), faults) or annotations
    return Tasks(layout.entries(videos, gold, faults))
