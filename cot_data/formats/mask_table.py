"""Read masks from a memory-mapped Arrow table, converted once from `mask_dict.json` or `mask_dict.pkl`.

The table is in `.videoseg_cache` beside the dictionary, or in the folder that VIDEOSEG_CACHE names. Its file name has
the dictionary's size and modification time, so a changed dictionary is converted again. All processes that open it
share its pages, and a worker receives only its path. `datasets.Dataset.from_file` can open it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from configs.plain_text import plain
from cot_data.faults import RAISE, Faults
from cot_data.formats.mask_rows import FORMAT, write_rows
from env.errors import DataError, MachineError
from env.files import make_folder, replace_path
from env.rle import decode, encode, union
from env.types import RLE, VideoRef

CACHE, CACHE_ENV = ".videoseg_cache", "VIDEOSEG_CACHE"


class MaskTable:
    """The masks of a dictionary by anno_id. The first access converts the dictionary or opens the table."""

    def __init__(self, source: Path):
        self.source = source

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source}

    @cached_property
    def _rows(self) -> dict[str, int]:
        """Row number by anno_id."""
        return {anno_id: row for row, anno_id in enumerate(self._table.data.column("anno_id").to_pylist())}

    @cached_property
    def _table(self) -> Any:
        from datasets import Dataset  # takes seconds to import, and reading metadata does not need it

        path = convert_to_arrow(self.source)
        try:
            return Dataset.from_file(str(path))
        except (pa.ArrowException, OSError, ValueError) as error:
            problem = f"expected converted masks, found something else ({plain(str(error))}); delete the file"
            raise DataError(str(path), problem) from error

    def tracklet(
        self, anno_id: str, video: VideoRef, where: str, faults: Faults = RAISE
    ) -> tuple[RLE | None, ...] | None:
        """Return the masks of one annotation.

        Args:
            anno_id: its key in the dictionary.
            video: the annotated video, with T frames.
            where: the expression's record, for errors.
            faults: raises the first fault, or collects them and continues.

        Returns:
            [T] RLEs, None where the object is absent or its mask empty; None instead of the tuple if collected faults
            leave no masks.

        Raises:
            DataError: the annotation is missing or broken, or does not fit the video.
        """
        if anno_id not in self._rows:
            with faults.collect():
                raise DataError(f"{where}.anno_id", f"{self.source} has no masks under {anno_id!r}")
            return None
        row, row_where = self._table[self._rows[anno_id]], f"{self.source}: [{anno_id!r}]"
        for fault in row["faults"]:
            with faults.collect():
                raise DataError(row_where + fault["place"], fault["problem"])
        counts, size = row["counts"], [row["height"], row["width"]]
        expected = [video.height, video.width]
        with faults.collect():
            if len(counts) != video.num_frames:
                problem = f"expected a list of {video.num_frames} masks, one per frame, found {len(counts)} entries"
                raise DataError(row_where, problem)
            first = next((t for t, each in enumerate(counts) if each is not None), None)
            if first is not None and size != expected:
                raise DataError(
                    f"{row_where}[{first}].size", f"expected {expected}, the size of the frames, found {size}"
                )
            empty = empty_counts(*size) if first is not None else None
            return tuple(None if each is None or each == empty else {"size": size, "counts": each} for each in counts)
        return None


@lru_cache
def empty_counts(height: int, width: int) -> str:
    """Return the `counts` of an RLE in which no pixel is set."""
    return encode(np.zeros((height, width), bool))["counts"]


@dataclass(frozen=True)
class TableGold:
    """A target that is the union of annotations; without any, nothing matches the expression."""

    table: MaskTable
    anno_ids: tuple[str, ...]

    def masks(self, video: VideoRef, where: str, faults: Faults = RAISE) -> tuple[RLE | None, ...]:
        """Read the masks; see `cot_data.tasks.Gold`."""
        lists_NT = [self.table.tracklet(anno_id, video, where, faults) for anno_id in self.anno_ids]
        known_NT = [masks for masks in lists_NT if masks is not None]
        if len(known_NT) == 1:
            return known_NT[0]
        together = []
        for t in range(video.num_frames):
            together.append(None)
            with faults.collect():
                together[t] = union([masks[t] for masks in known_NT], f"{where}, frame {t}")
        return tuple(together)

    def check(self, video: VideoRef, where: str, faults: Faults) -> None:
        """Collect the faults of all masks; see `cot_data.tasks.Gold`."""
        for anno_id in self.anno_ids:
            for t, rle in enumerate(self.table.tracklet(anno_id, video, where, faults) or ()):
                if rle is not None:
                    with faults.collect():
                        decode(rle, f"{self.table.source}: [{anno_id!r}][{t}]")


def convert_to_arrow(source: Path) -> Path:
    """Return the Arrow file of a dictionary; if it does not exist yet, write it as a whole.

    Raises:
        DataError: `source` is not a dictionary of masks.
        MachineError: The Arrow file cannot be written.
    """
    if not source.is_file():
        raise DataError(str(source), "expected a dictionary of masks, found no such file")
    found = source.stat()
    shared_cache = os.environ.get(CACHE_ENV)
    folder = Path(shared_cache) if shared_cache else source.parent / CACHE
    prefix = f"{sha256(str(source.resolve()).encode()).hexdigest()[:12]}-" if shared_cache else ""
    stem = f"{prefix}{source.name}"
    path = folder / f"{stem}.{found.st_size:x}-{found.st_mtime_ns:x}.{FORMAT}.arrow"
    if path.is_file():
        return path
    try:
        make_folder(folder)
        with replace_path(path) as draft:
            write_rows(source, draft)
    except MachineError as error:
        raise MachineError(f"{error}, or name a folder for converted masks in {CACHE_ENV}") from error
    for stale in folder.glob(f"{stem}.*.arrow"):
        if stale != path:
            stale.unlink(missing_ok=True)
    return path
