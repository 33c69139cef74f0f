"""Say which command makes the data that a config names, where the data is not there."""

from __future__ import annotations

import shlex
from pathlib import Path, PurePosixPath

from env.errors import DataError

BESIDE_SPLITS = ("ref_youtube_vos", "ref_davis17", "revos")  # layouts whose root need not exist; its parent must
TRAIN, HELD_OUT = (400, 1), (60, 2)  # videos and seed, as `make demo` generates them


def require_root(key: str, dataset: str, root: str) -> None:
    """Raise a DataError if the folder of a data set is not there.

    Args:
        key: of the config that names the folder.
        dataset: layout of the data, a key of `DATASETS`.
        root: the folder.
    """
    folder = Path(root).absolute()
    if (folder.parent if dataset in BESIDE_SPLITS else folder).is_dir():
        return
    raise DataError(key, f"{root or 'nothing'}: not found; {_remedy(root)}")


def _remedy(root: str) -> str:
    parts = PurePosixPath(root).parts
    if len(parts) < 4 or parts[0] != "runs" or parts[2] != "data":  # not a folder that a shipped config names
        return "name the folder of the data set, or of its split, there"
    out = shlex.quote(root)
    if parts[1] == "clips":
        return f"`python -m cot_data.clips --source FOLDER --out {out}` makes it from clips with masks"
    num_videos, seed = HELD_OUT if parts[3] == "heldout" else TRAIN
    command = f"`python -m cot_data.moving_shapes --out {out} --videos {num_videos} --seed {seed}`"
    return f"{command} makes it" if parts[1] != "demo" else f"`make demo` or {command} makes it"
