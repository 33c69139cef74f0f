"""ReasonVOS as published: `meta_expressions.json`, `JPEGImages/<video>/`, `Annotations/<source>_<video>_<object>/`.

Some videos have two expressions of one id. The earlier one is given a number of its own, one above the highest of its
video, so that no expression is lost. `cot_data.convert_reason_vos` writes the two files that other programs expect.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cot_data.faults import RAISE, Faults
from cot_data.formats.frame_folder import check_inside, folder_of
from cot_data.formats.json_fields import field, read_json
from cot_data.formats.png_masks import PngGold, PngTrack
from cot_data.tasks import Entry, Outline, Tasks
from env.errors import DataError

META = "meta_expressions.json"


def load_reason_vos(root: Path, faults: Faults = RAISE) -> Tasks:
    """Every expression as a task; expressions in string order within a video."""
    file = root / META
    found = []
    for name, record in field(read_json(file), "videos", dict, str(file)).items():
        where = f"{file}: videos[{name!r}]"
        with faults.noted():
            check_inside(name, where)
            footage = folder_of(root, f"JPEGImages/{name}", record, where)
            for exp_id, expression, spot in numbered(record, where, faults):
                with faults.noted():
                    text = field(expression, "exp_text", str, spot)
                    track = PngTrack(root, f"Annotations/{annotation(name, record, expression, where, spot)}")
                    outline = Outline(f"{root.name}/{name}/{exp_id}", text, len(record["frames"]))
                    found.append(Entry(outline, footage, PngGold((track,)), spot))
    return Tasks(found)


def annotation(name: str, record: Any, expression: Any, where: str, spot: str) -> str:
    """Name of the folder with an expression's masks."""
    return f"{field(record, 'source', str, where)}_{name}_{field(expression, 'obj_id', (int, str), spot)}"


def numbered(record: Any, where: str, faults: Faults = RAISE) -> list[tuple[str, Any, str]]:
    """(id, expression, place) of a video in string order of the ids, each id once.

    Ids 0, 1, 1, 2 in file order become 0, 3, 1, 2.
    """
    found: dict[int, tuple[Any, str]] = {}
    repeated = []
    for i, expression in enumerate(field(record, "expressions", list, where)):
        spot = f"{where}.expressions[{i}]"
        with faults.noted():
            exp_id = field(expression, "exp_id", int, spot)
            if exp_id < 0:
                raise DataError(f"{spot}.exp_id", f"expected a number from 0, found {exp_id}")
            if exp_id in found:
                repeated.append(found[exp_id])
            found[exp_id] = (expression, spot)
    for each in repeated:
        found[max(found) + 1] = each
    return sorted((str(exp_id), *each) for exp_id, each in found.items())
