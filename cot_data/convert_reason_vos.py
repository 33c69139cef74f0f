"""Write ReasonVOS as VideoSEG-O3's tools expect it: `python -m cot_data.convert_reason_vos ROOT [--out DIR]`.

It makes `meta_expressions_format.json` (a dict of expressions with a single `anno_id` each) and `mask_dict.json` from
the published files.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.progress import track

from cot_data.datasets.reason_vos import load_reason_vos
from env.errors import command
from env.files import make_folder, write_json
from env.types import RLE


def convert(root: Path, out: Path) -> None:
    """Write both files into `out`. DataError names a broken field of the published files."""
    videos: dict[str, Any] = {}
    anno_ids: dict[Any, int] = {}
    masks: dict[str, tuple[RLE | None, ...]] = {}
    for entry in track(load_reason_vos(root.absolute()).entries, "ReasonVOS"):
        _, name, exp_id = entry.outline.task_id.rsplit("/", 2)
        anno_id = anno_ids.setdefault(entry.gold, len(anno_ids))
        video = entry.footage.ref()
        if str(anno_id) not in masks:
            masks[str(anno_id)] = entry.task().gold
        record = videos.setdefault(name, {"frames": video.frames, "height": video.height, "width": video.width})
        record.setdefault("expressions", {})[exp_id] = {"exp": entry.outline.expression, "anno_id": anno_id}
    make_folder(out)
    write_json(out / "meta_expressions_format.json", {"videos": videos}, indent=None)
    write_json(out / "mask_dict.json", masks, indent=None)


@command
def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Write ReasonVOS in the form that VideoSEG-O3 reads.")
    parser.add_argument("root", type=Path, help="folder with the published meta_expressions.json")
    parser.add_argument("--out", type=Path, help="folder to write (default: the root)")
    args = parser.parse_args()
    convert(args.root, args.out or args.root)


if __name__ == "__main__":
    main()
