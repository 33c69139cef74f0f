"""Damage to the files of a small data set in the layout of MeViS, as disks and copies that broke off leave it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from configs.load import load_config
from cot_data.datasets import load_tasks
from env.frames import sample_indices
from env.types import Interval


def copied(data: Path, out: Path) -> Path:
    """Copy a data set; its caches stay behind, so that changed masks are read."""
    return Path(shutil.copytree(data, out, ignore=shutil.ignore_patterns(".videoseg_cache")))


def cut_frame(root: Path, video: int, frame_idx: int) -> str:
    """Cut a JPEG in the middle, which its header does not tell; return its name with the folder."""
    folder = sorted((root / "JPEGImages").iterdir())[video]
    path = sorted(folder.iterdir())[frame_idx]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return f"{folder.name}/{path.name}"


def spoil_masks(root: Path, expression: int) -> str:
    """Replace a mask of the target of one expression by text that is no mask; return the expression's task id."""
    task_id = load_tasks("mevis", root).outlines[expression].task_id
    _, video, name = task_id.split("/")
    meta = json.loads((root / "meta_expressions.json").read_text())
    anno_id = str(meta["videos"][video]["expressions"][name]["anno_id"][0])
    masks = json.loads((root / "mask_dict.json").read_text())
    first = next(at for at, mask in enumerate(masks[anno_id]) if mask)
    masks[anno_id][first]["counts"] = "zz"
    (root / "mask_dict.json").write_text(json.dumps(masks))
    return task_id


def tasks_with_masks_of(root: Path, task_id: str) -> set[str]:
    """Return the ids of all tasks that read the same masks as this one."""
    meta = json.loads((root / "meta_expressions.json").read_text())["videos"]
    _, video, name = task_id.split("/")
    objects = set(meta[video]["expressions"][name]["anno_id"])
    found = meta[video]["expressions"].items()
    return {f"{root.name}/{video}/{other}" for other, each in found if objects & set(each["anno_id"])}


def frame_only_tracked(num_frames: int, config: str = "smoke") -> int:
    """Return a frame that the first observation does not show, so that only tracking comes to it."""
    env = load_config(config).env
    whole = Interval(0, num_frames)
    shown = {*sample_indices(whole, env.strip_frames), *sample_indices(whole, env.detail_frames)}
    return next(at for at in range(num_frames - 1, 0, -1) if at not in shown)
