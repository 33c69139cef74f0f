"""Load MeViS and data sets in its layout: `meta_expressions.json`, `mask_dict.json`, `JPEGImages/<video>/<frame>.jpg`.

The root is the folder of one split (train, valid_u, valid, test). If it has a `moving_shapes.json`, written by
`cot_data.moving_shapes`, its labels are added. The gold masks are unknown without a mask dictionary, and for an
expression without `anno_id`. An empty `anno_id` means that nothing matches the expression.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from cot_data.faults import RAISE, Faults
from cot_data.formats.expression_file import Expression, ExpressionFile, gold_by_anno_id
from cot_data.moving_shapes.labels_file import LABELS, label_of, read_labels
from cot_data.tasks import Tasks

META, META_OF_TEST = "meta_expressions.json", "meta_expressions_release.json"
MASKS, IMAGES = "mask_dict.json", "JPEGImages"


def load_mevis(root: Path, faults: Faults = RAISE) -> Tasks:
    """Return every expression of the split as a task. DataError names the file, record and field of the first fault."""
    root = Path(root).absolute()
    layout = expression_file(root)
    return Tasks(layout.entries(layout.videos(), gold_by_anno_id(root, faults), faults))


def expression_file(root: Path) -> ExpressionFile:
    """Return the metadata of the split in folder `root`."""
    meta = root / META
    if not meta.is_file() and (root / META_OF_TEST).is_file():
        meta = root / META_OF_TEST
    labels = read_labels(root) if (root / LABELS).is_file() else {}
    return ExpressionFile(root.name, meta, root, IMAGES, partial(_label, labels, str(root / LABELS)))


def _label(labels: dict[str, Any], file: str, expression: Expression) -> dict[str, Any]:
    """The labels of an expression of Moving Shapes; none for other data sets."""
    return label_of(labels, expression.video, expression.exp_id, expression.num_frames, file)
