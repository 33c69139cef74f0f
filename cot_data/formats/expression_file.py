"""Read the metadata of most data sets: `{"videos": {<video>: {"frames": [..], "expressions": {<id>: {..}}}}}`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cot_data.faults import Faults
from cot_data.formats.frame_folder import FrameFolder, folder_of
from cot_data.formats.json_fields import field, read_json
from cot_data.formats.mask_table import MaskTable, TableGold, convert_to_arrow
from cot_data.tasks import Entry, Gold, Outline
from env.data_root import check_links
from env.errors import DataError
from env.outside_names import check_name, check_path


@dataclass(frozen=True)
class Expression:
    """One record under `expressions`, and its position in the file."""

    video: str
    exp_id: str
    record: Any
    num_frames: int
    where: str  # file and record

    def obj_ids(self) -> tuple[str, ...]:
        """Return `obj_id`: a list, or a single number or string. DataError if it is missing or has another type."""
        return _ids(field(self.record, "obj_id", (list, int, str), self.where), f"{self.where}.obj_id")

    def anno_ids(self) -> tuple[str, ...] | None:
        """Return the keys of the mask dictionary, from `anno_id`; None without that field."""
        if "anno_id" not in self.record:
            return None
        return _ids(field(self.record, "anno_id", (list, int, str), self.where), f"{self.where}.anno_id")

    def choice(self, name: str, names: dict[Any, str]) -> str:
        """Return the name for the value of a field. DataError if the value is not a key of `names`."""
        kinds = tuple({type(key) for key in names})
        value = field(self.record, name, kinds, self.where)
        if value not in names:
            raise DataError(f"{self.where}.{name}", f"expected one of {', '.join(map(repr, names))}, found {value!r}")
        return names[value]


GoldOf = Callable[[Expression], Gold | None]


@dataclass(frozen=True)
class ExpressionFile:
    """The metadata file of one data set, and the data set's variations of the layout."""

    name: str  # first part of its task ids
    file: Path
    root: Path  # nothing outside it is opened
    images: str | tuple[str, ...]  # folder below the root with the video folders; or several, the first that exists
    more: Callable[[Expression], dict[str, Any]] = lambda expression: {}  # further fields of the outline

    def videos(self) -> dict[str, Any]:
        """Return the records by video name. DataError if the file does not have this layout."""
        check_links(self.root, self.file, str(self.file))
        return field(read_json(self.file), "videos", dict, str(self.file))

    def entries(self, videos: dict[str, Any], gold: GoldOf, faults: Faults) -> list[Entry]:
        """Return an entry for every expression of some videos.

        Args:
            videos: records by video name, as `videos()` returns them.
            gold: returns the masks of an expression, None if they are unknown.
            faults: raises the first fault, or collects them and continues.

        Returns:
            The entries in order of the videos; within a video in string order of the ids ("10" < "2").
        """
        found = []
        for name, record in videos.items():
            where = f"{self.file}: videos[{name!r}]"
            with faults.collect():
                folder = self.folder(name, record, where)
                expressions = field(record, "expressions", dict, where)
                for exp_id in sorted(expressions):
                    with faults.collect():
                        expression_where = f"{where}.expressions[{exp_id!r}]"
                        check_name(exp_id, expression_where)
                        expression = Expression(
                            name, exp_id, expressions[exp_id], len(record["frames"]), expression_where
                        )
                        found.append(Entry(self._outline(expression), folder, gold(expression), expression_where))
        return found

    def folder(self, name: str, record: Any, where: str) -> FrameFolder:
        """Locate the frames of one video.

        Args:
            name: of the video.
            record: its record in the file.
            where: file and record, for errors.

        Returns:
            The folder of frames; it is read on use.

        Raises:
            DataError: the record does not have this layout, or the name leads out of the root.
        """
        check_path(name, where)
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
    """Return None: the masks of the split are not published."""


def gold_by_anno_id(folder: Path, faults: Faults) -> GoldOf:
    """Return a function that looks up an expression's `anno_id`s in `mask_dict.json` or `.pkl`, if there is one."""
    table = mask_table(folder, faults)
    if table is None:
        return unknown_gold

    def gold(expression: Expression) -> Gold | None:
        anno_ids = expression.anno_ids()
        return None if anno_ids is None else TableGold(table, anno_ids)

    return gold


def mask_table(folder: Path, faults: Faults) -> MaskTable | None:
    """Return the converted mask dictionary of a folder, JSON in preference to pickle; None if there is none."""
    for name in ("mask_dict.json", "mask_dict.pkl"):
        if (folder / name).is_file():
            with faults.collect():
                check_links(folder, name, str(folder / name))
                convert_to_arrow(folder / name)  # in this process, so that workers need not do it
                return MaskTable(folder / name)
    return None


def split_of(root: Path, meta: str) -> tuple[Path, Path]:
    """Return the folder and the metadata file of a root `<folder>/<split>`. DataError if there is no such file.

    `meta` is the path of the file below the folder, with {split} in it. The last part of the root names the split, and
    need not exist as a folder.
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
