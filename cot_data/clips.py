"""Convert real clips to the MeViS layout: `python -m cot_data.clips --out DIR`.

The environment variable VIDEOSEG_CLIPS names the folder of the clips: `<clip>/frames/%05d.jpg`,
`<clip>/masks/%05d.png` (palette images whose pixel values are object ids) and `<clip>/meta.json` with the expressions.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np

from cot_data.formats.json_fields import field, read_json
from cot_data.formats.png_masks import read_ids
from env.errors import DataError, command
from env.files import make_folder, write_bytes, write_json
from env.rle import encode
from env.types import RLE

DEFAULT = "../shared/data"


def clips_folder() -> Path:
    """Return the folder of the clips, which may not exist."""
    return Path(os.environ.get("VIDEOSEG_CLIPS", DEFAULT))


def convert_clips(source: Path, out: Path) -> None:
    """Write every clip of `source` that has a `meta.json` into `out`. DataError names a broken file."""
    clips = sorted(path.parent for path in Path(source).glob("*/meta.json"))
    if not clips:
        raise DataError(str(source), "expected <clip>/meta.json; name the folder of clips in VIDEOSEG_CLIPS")
    videos: dict[str, Any] = {}
    masks: dict[str, list[RLE | None]] = {}
    for clip in clips:
        meta = read_json(clip / "meta.json")
        frames = sorted(path.stem for path in (clip / "frames").glob("*.jpg"))
        folder = Path(out) / "JPEGImages" / clip.name
        make_folder(folder)
        for frame in frames:
            write_bytes(folder / f"{frame}.jpg", (clip / "frames" / f"{frame}.jpg").read_bytes())
        anno_ids = {obj_id: len(masks) + i for i, obj_id in enumerate(_object_ids(meta, clip))}
        ids_THW = np.stack([read_ids(clip / "masks" / f"{frame}.png") for frame in frames])
        for obj_id, anno_id in anno_ids.items():
            masks[str(anno_id)] = [encode(hit_HW) if hit_HW.any() else None for hit_HW in ids_THW == obj_id]
        height, width = ids_THW.shape[1:]
        expressions = _expressions(meta, clip, anno_ids)
        videos[clip.name] = {"frames": frames, "height": height, "width": width, "expressions": expressions}
    write_json(Path(out) / "meta_expressions.json", {"videos": videos}, indent=None)
    write_json(Path(out) / "mask_dict.json", masks, indent=None)


def _object_ids(meta: Any, clip: Path) -> list[int]:
    return field(meta, "object_ids", list, str(clip / "meta.json"))


def _expressions(meta: Any, clip: Path, anno_ids: dict[int, int]) -> dict[str, Any]:
    out = {}
    for i, row in enumerate(field(meta, "expressions", list, str(clip / "meta.json"))):
        where = f"{clip / 'meta.json'}: expressions[{i}]"
        obj_id = field(row, "obj_id", int, where)
        if obj_id not in anno_ids:
            raise DataError(f"{where}.obj_id", f"expected one of {list(anno_ids)}, found {obj_id}")
        out[field(row, "exp_id", str, where)] = {
            "exp": field(row, "exp", str, where),
            "obj_id": [obj_id],
            "anno_id": [anno_ids[obj_id]],
        }
    return out


@command
def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Convert real clips to the MeViS layout.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--source", type=Path, default=clips_folder(), help="folder of the clips")
    args = parser.parse_args()
    convert_clips(args.source, args.out)
    print(f"{args.out}: {len(list((args.out / 'JPEGImages').iterdir()))} clips")


if __name__ == "__main__":
    main()
