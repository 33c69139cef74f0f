"""Load ReVOS; the root is `<folder>/<split>` with the split train or valid, a folder that need not exist.

`<folder>` has `meta_expressions_<split>_.json`, `mask_dict.json` and the frames. The name of a video is its path below
`<folder>` or below `<folder>/JPEGImages`: both forms have been published.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cot_data.faults import RAISE, Faults
from cot_data.formats.expression_file import Expression, ExpressionFile, gold_by_anno_id, split_of
from cot_data.tasks import Tasks

META = "meta_expressions_{split}_.json"
SUBSETS = {0: "referring", 1: "reasoning", 2: "hallucination"}  # by `type_id`


def load_revos(root: Path, faults: Faults = RAISE) -> Tasks:
    """Return every expression of the split, with its subset by `type_id`; nothing matches a hallucination."""
    folder, meta = split_of(root, META)
    layout = ExpressionFile(root.name, meta, folder, ("", "JPEGImages"), _subset)
    return Tasks(layout.entries(layout.videos(), gold_by_anno_id(folder, faults), faults))


def _subset(expression: Expression) -> dict[str, Any]:
    return {"subset": expression.choice("type_id", SUBSETS)}
