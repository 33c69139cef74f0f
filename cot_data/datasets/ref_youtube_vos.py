"""Load Ref-YouTube-VOS; the root is `<folder>/<split>` with the split train, valid or test.

The folder has `<split>/JPEGImages/<video>/<frame>.jpg`, `meta_expressions/<split>/meta_expressions.json` and, for
train, `train/Annotations/<video>/<frame>.png` (palette images whose pixel values are object ids) or `mask_dict.pkl`.
"""

from __future__ import annotations

from pathlib import Path

from cot_data.faults import RAISE, Faults
from cot_data.formats.expression_file import ExpressionFile, split_of, unknown_gold
from cot_data.formats.object_ids import gold_by_counting, gold_by_obj_id
from cot_data.tasks import Tasks

META = "meta_expressions/{split}/meta_expressions.json"


def load_ref_youtube_vos(root: Path, faults: Faults = RAISE) -> Tasks:
    """Return every expression of the split; only train has gold masks.

    The file of valid also lists the videos of test. These are left out, so that 202 of 507 videos remain.
    """
    folder, meta = split_of(root, META)
    layout = ExpressionFile(root.name, meta, folder, f"{root.name}/JPEGImages")
    videos = layout.videos()
    gold = unknown_gold
    if root.name == "valid":
        _, hidden = split_of(folder / "test", META)
        test_videos = ExpressionFile("test", hidden, folder, "test/JPEGImages").videos()
        videos = {name: record for name, record in videos.items() if name not in test_videos}
    if root.name == "train":
        gold = gold_by_counting(folder, videos, str(meta), faults) or gold_by_obj_id(folder, "train/Annotations")
    return Tasks(layout.entries(videos, gold, faults))
