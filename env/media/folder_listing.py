"""List a folder of frames: which files are frames, in which order, and what there is to say about the others."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePath

from env.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")  # in any case; of two files of one name the first suffix counts
_NUMBER = re.compile(r"([0-9]+)")
_MANY = 5  # names or numbers that a note lists


@dataclass(frozen=True)
class FolderListing:
    """The frames of a folder."""

    files: dict[str, str]  # frame name -> file name, in the order of the frames
    doubles: tuple[str, ...]  # frame names that several files have
    notes: tuple[str, ...]  # what the user should know about the folder, a sentence each


def list_frames(folder: Path) -> FolderListing:
    """Return the JPEGs and PNGs of a folder in natural order: numbers by value, everything else as text.

    Hidden files, such as `._00000.jpg`, are no frames. DataError if the folder cannot be listed.
    """
    frames: dict[str, str] = {}
    doubles: list[str] = []
    try:
        with os.scandir(folder) as entries:
            names = sorted((entry.name, entry.is_dir()) for entry in entries)
    except OSError as error:
        raise DataError(str(folder), f"expected a folder of frames, which cannot be listed ({error})") from error
    for suffix in IMAGE_SUFFIXES:
        for name, is_folder in names:
            stem, ending = os.path.splitext(name)
            if ending.lower() != suffix or name.startswith(".") or is_folder:
                continue
            if stem in frames:
                doubles.append(stem)
            else:
                frames[stem] = name
    taken = set(frames.values())
    others = [name for name, _ in names if name not in taken and PurePath(name).stem not in doubles]
    files = {stem: frames[stem] for stem in sorted(frames, key=natural_key)}
    notes = (*_ignored(others), *_gaps(list(files)))
    return FolderListing(files, tuple(doubles), notes)


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return a sort key by which `f2` comes before `f10`; the names themselves decide between `1` and `01`."""
    parts = _NUMBER.split(name)
    return [(int(part), "") if at % 2 else (-1, part) for at, part in enumerate(parts)], name


def _ignored(others: list[str]) -> list[str]:
    if not others:
        return []
    return [f"{len(others)} other {'file is' if len(others) == 1 else 'files are'} ignored: {_some(others)}"]


def _gaps(names: list[str]) -> list[str]:
    """Return a note on missing numbers, where the names are numbered: steps that are larger than the usual one."""
    numbers = [int(found[-1]) for name in names if (found := _NUMBER.findall(name))]
    steps = [after - before for before, after in pairwise(numbers)]
    if len(numbers) < len(names) or not steps or min(steps) < 1:
        return []
    usual = Counter(steps).most_common(1)[0][0]
    gaps = [f"{before} to {after}" for before, after in pairwise(numbers) if after - before > usual]
    if not gaps:
        return []
    return [f"the numbers of the frames leave gaps, and frames are counted without them: {_some(gaps)}"]


def _some(values: list[str]) -> str:
    return ", ".join(values[:_MANY]) + (f" and {len(values) - _MANY} more" if len(values) > _MANY else "")
