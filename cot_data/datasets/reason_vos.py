"""Load ReasonVOS: `meta_expressions.json`, `JPEGImages/<video>/`, `Annotations/<source>_<video>_<object>/`.

Some videos have two expressions with the same id. The earlier one gets a new id, one above the highest of its video, so
that no expression is lost. `cot_data.convert_reason_vos` writes the two files that other programs expect.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cot_data.faults import RAISE, Faults
from cot_data.formats.frame_folder import folder_of
from cot_data.formats.json_fields import field, read_json
from cot_data.formats.png_masks import PngGold, PngTrack
from cot_data.tasks import Entry, Outline, Tasks
from env.data_root import check_links
from env.errors import DataError
from env.outside_names import check_path

META = "meta_expressions.json"


def load_reason_vos(root: Path, faults: Faults = RAISE) -> Tasks:
    """Return every expression as a task, in string order of the ids within a video."""
    file = root / META
    check_links(root, META, str(file))
    found = []
    for name, record in field(read_json(file), "videos", dict, str(file)).items():
        where = f"{file}: videos[{name!r}]"
        with faults.collect():
            check_path(name, where)
            footage = folder_of(root, f"JPEGImages/{name}", record, where)
            for exp_id, expression, expression_where in _numbered(record, where, faults):
                with faults.collect():
                    text = field(expression, "exp_text", str, expression_where)
                    track = PngTrack(
                        root, f"Annotations/{_annotation_folder(name, record, expression, where, expression_where)}"
                    )
                    outline = Outline(f"{root.name}/{name}/{exp_id}", text, len(record["frames"]))
                    found.append(Entry(outline, footage, PngGold((track,)), expression_where))
    return Tasks(found)


def _annotation_folder(name: str, record: Any, expression: Any, where: str, expression_where: str) -> str:
    """Name of the folder that has an expression's masks."""
    return f"{field(record, 'source', str, where)}_{name}_{field(expression, 'obj_id', (int, str), expression_where)}"


def _numbered(record: Any, where: str, faults: Faults = RAISE) -> list[tuple[str, Any, str]]:
    """(id, expression, where) of each expression of a video, in string order of the ids, which are unique.

    Ids 0, 1, 1, 2 in file order become 0, 3, 1, 2.
    """
    found: dict[int, tuple[Any, str]] = {}
    repeated = []
    for i, expression in enumerate(field(record, "expressions", list, where)):
        expression_where = f"{where}.expressions[{i}]"
        with faults.collect():
            exp_id = field(expression, "exp_id", int, expression_where)
            if exp_id < 0:
                raise DataError(f"{expression_where}.exp_id", f"expected a number >= 0, found {exp_id}")
            if exp_id in found:
                repeated.append(found[exp_id])
            found[exp_id] = (expression, expression_where)
    for each in repeated:
        found[max(found) + 1] = each
    return sorted((str(exp_id), *each) for exp_id, each in found.items())
