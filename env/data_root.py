"""One rule for links in a data set: a link may lead anywhere inside the data root, and nowhere else.

It holds for metadata, videos, frames and masks, for single files and for folders. The root itself may be a link. Where
the data of a user's own is links, such as into a cache of downloads, the variable VIDEOSEG_FOLLOW_LINKS=1 lifts it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from env.errors import DataError

FOLLOW_ENV = "VIDEOSEG_FOLLOW_LINKS"


def follows_links() -> bool:
    """Return whether links may leave the data root."""
    return os.environ.get(FOLLOW_ENV) == "1"


def check_links(root: Path, path: str | Path, where: str) -> None:
    """Raise a DataError if a file or folder, or an entry of the folder, is a link that leads out of the data root.

    Args:
        root: of the data set.
        path: of the file or folder, relative to the root; it need not exist.
        where: file and record, for errors.
    """
    if follows_links():
        return
    try:
        base = root.resolve()
        for each in (root / path, *_links_in(root / path)):
            if not (target := each.resolve()).is_relative_to(base):
                problem = f"{each} leads out of the data root, to {target}"
                raise DataError(where, f"{problem}; move it inside, or set {FOLLOW_ENV}=1 if the links are your own")
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name too long, a null character
        raise DataError(where, f"{root / path} cannot be followed ({error})") from error


def _links_in(folder: Path) -> Iterator[Path]:
    """Yield the links in a folder; nothing for a file, or where there is nothing."""
    if folder.is_dir():
        with os.scandir(folder) as entries:
            yield from (Path(entry.path) for entry in entries if entry.is_symlink())
