"""The metadata that most data sets share: `{"videos": {<video>: {"frames": [..], "expressions": {<id>: {..}}}}}`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cot_data.faults import Faults
from cot_data.formats.frame_folder import FrameFolder, check_inside, folder_of
from cot_data.formats.json_fields import field, read_json
from cot_data.formats.mask_table import MaskTable, TableGold, converted
from cot_data.tasks import Entry, Gold, Outline
from env.errors import DataError


@dataclass(frozen=True)
class Expression:
    """One record under `expressions`, and where it stands."""

    video: str
    exp_id: str
    record: Any
    num_frames: int
    where: str

    def obj_ids(self) -> tuple[str, ...]:
        """`obj_id`: a list, or a bare number or text; DataError where it is missing or something else."""
        return _ids(field(self.record, "obj_id", (list, int, str), self.where), f"{self.where}.obj_id")

    def anno_ids(self) -> tuple[str, ...] | None:
        """Keys of the mask dictionary, from `anno_id`; None where there is no such field."""
        if "anno_id" not in self.record:
            return None
        return _ids(field(self.record, "anno_id", (list, int, str), self.where), f"{self.where}.anno_id")

    def choice(self, name: str, names: dict[Any, str]) -> str:
        """What the value of a field stands for; DataError where it is none of `names`."""
        kinds = tuple({type(key) for key in names})
        value = field(self.record, name, kinds, self.where)
        if value not in names:
            raise DataError(f"{self.where}.{name}", f"expected one of {', '.join(map(repr, names))}, found {value!r}")
        return names[value]


GoldOf = Callable[[Expression], Gold | None]


@dataclass(frozen=True)
class ExpressionFile:
    """How one data set uses the layout."""

    name: str  # first part of its task ids
    file: Path
    root: Path  # nothing outside it is opened
    images: str | tuple[str, ...]  # folder of the video folders below the root, or several that may be it
    more: Callable[[Expression], dict[str, Any]] = lambda expression: {}  # further fields of the outline

    def videos(self) -> dict[str, Any]:
        """The records by video name; DataError where the file is not of this layout."""
        return field(read_json(self.file), "videos", dict, str(self.file))

    def entries(self, videos: dict[str, Any], gold: GoldOf, faults: Faults) -> list[Entry]:
        """Every expression of `videos`, in their order; expressions in string order ("10" < "2")."""
        found = []
        for name, record in videos.items():
            where = f"{self.file}: videos[{name!r}]"
            with faults.noted():
                folder = self.folder(name, record, where)
                expressions = field(record, "expressions", dict, where)
                for exp_id in sorted(expressions):
                    with faults.noted():
                        spot = f"{where}.expressions[{exp_id!r}]"
                        expression = Expression(name, exp_id, expressions[exp_id], len(record["frames"]), spot)
                        found.append(Entry(self._outline(expression), folder, gold(expression), spot))
        return found

    def folder(self, name: str, record: Any, where: str) -> FrameFolder:
        """The frames of one video; DataError where its record is not of this layout."""
        check_inside(name, where)
        choices = (self.images,) if isinstance(self.images, str) else self.images
        paths = [f"{images}/{name}" if images else name for images in choices]
        path = next((path for path in paths[:-1] if (self.root / path).is_dir()), paths[-1])
        return folder_of(self.root, path, record, where)

    def _outline(self, expression: Expression) -> Outline:
        return Outline(
            task_id=f"{self.name}/{expression.video}/{expression.exp_id}",
            expression=field(expression.record, "exp", str, expression.where),
            num_frames=expression.num_frames,
            **self.more(expression),
        )


def unknown_gold(expression: Expression) -> None:
    """Of a split whose masks are not published."""


def gold_by_anno_id(folder: Path, faults: Faults) -> GoldOf:
    """Masks of `mask_dict.json` or `mask_dict.pkl` under the `anno_id`s of an expression; unknown without either."""
    table = mask_table(folder, faults)
    if table is None:
        return unknown_gold

    def gold(expression: Expression) -> Gold | None:
        anno_ids = expression.anno_ids()
        return None if anno_ids is None else TableGold(table, anno_ids)

    return gold


def mask_table(folder: Path, faults: Faults) -> MaskTable | None:
    """The dictionary of masks in a folder, JSON before pickle, converted; None where there is none."""
    for name in ("mask_dict.json", "mask_dict.pkl"):
        if (folder / name).is_file():
            with faults.noted():
                converted(folder / name)  # here, in one process, and not in every worker
                return MaskTable(folder / name)
    return None


def split_of(root: Path, meta: str) -> tuple[Path, Path]:
    """Folder and metadata file of a root `<folder>/<split>`; `meta` is the file below the folder, with {split} in it.

    The last part of the root names the split, whether or not the publishers made a folder of that name.
    """
    file = root.parent / meta.format(split=root.name)
    if not file.is_file():
        problem = f"expected <folder of the data set>/<split> as root, with the metadata in {file}; found no such file"
        raise DataError(str(root), problem)
    return root.parent, file


def _ids(value: Any, where: str) -> tuple[str, ...]:
    ids = value if isinstance(value, list) else [value]
    for each in ids:
        if not isinstance(each, (int, str)) or isinstance(each, bool):
            raise DataError(where, f"expected numbers or strings, found {each!r}")
    return tuple(str(each) for each in ids)
