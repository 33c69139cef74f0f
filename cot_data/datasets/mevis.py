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
from cot_data.formats.json_fields import field, read_json
from cot_data.tasks import Tasks
from env.errors import DataError

META, META_OF_TEST = "meta_expressions.json", "meta_expressions_release.json"
MASKS, LABELS, IMAGES = "mask_dict.json", "moving_shapes.json", "JPEGImages"


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
    labels = read_json(root / LABELS)["videos"] if (root / LABELS).is_file() else {}
    more = partial(_label, labels, str(root / LABELS))
    return ExpressionFile(root.name, meta, root, IMAGES, more)


def _label(labels: dict[str, Any], file: str, expression: Expression) -> dict[str, Any]:
    """The labels of an expression of Moving Shapes; none for other data sets."""
    label = labels.get(expression.video, {}).get("expressions", {}).get(expression.exp_id, {})
    if not label:
        return {}
    where = f"{file}: videos[{expression.video!r}].expressions[{expression.exp_id!r}]"
    evidence = tuple(field(label, "evidence", list, where))
    for t in evidence:
        if not isinstance(t, int) or not 0 <= t < expression.num_frames:
            raise DataError(f"{where}.evidence", f"expected frames 0 to {expression.num_frames - 1}, found {t!r}")
    texts = {name: field(label, name, str, where) for name in ("family", "explore", "caption")}
    return {**texts, "evidence": evidence}
