"""Faults planted in the data sets of `tests.helpers.published_layouts`, and the message expected for each."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.helpers.published_layouts import HEIGHT, LAYOUTS, NAMES, WIDTH, rle, video, write_frames

Change = Callable[[Path], object]


def in_json(path: str, change: Callable[[Any], Any]) -> Change:
    """Return a change of a JSON file below the root, or beside it (`../`)."""

    def apply(root: Path) -> None:
        file = Path(os.path.normpath(root / path))
        made = json.loads(file.read_text())
        change(made)
        file.write_text(json.dumps(made))

    return apply


def in_video(change: Callable[[Any], Any], meta: str = "meta_expressions.json", name: str = "clip") -> Change:
    return in_json(meta, lambda made: change(made["videos"][name]))


def in_expression(exp_id: str, change: Callable[[Any], Any], **where: str) -> Change:
    return in_video(lambda record: change(record["expressions"][exp_id]), **where)


def in_masks(change: Callable[[Any], Any], path: str = "mask_dict.json") -> Change:
    return in_json(path, change)


def in_pickle(change: Callable[[Any], Any]) -> Change:
    def apply(root: Path) -> None:
        made = pickle.loads((root / "mask_dict.pkl").read_bytes())
        change(made)
        (root / "mask_dict.pkl").write_bytes(pickle.dumps(made))

    return apply


def without(path: str) -> Change:
    return lambda root: Path(root, path).unlink()


def renamed(path: str) -> Change:
    def apply(root: Path) -> None:
        Path(root, path).rename(Path(root, path).with_name("other"))

    return apply


def garbage(path: str) -> Change:
    return lambda root: Path(root, path).write_bytes(b"GIF89a")


def cut(path: str) -> Change:
    def apply(root: Path) -> None:
        data = Path(root, path).read_bytes()
        Path(root, path).write_bytes(data[: len(data) // 2])

    return apply


def image(path: str, mode: str = "L", size: tuple[int, int] = (WIDTH, HEIGHT)) -> Change:
    return lambda root: Image.new(mode, size).save(Path(root, path))


def further_video(name: str, **changes: Any) -> Change:
    """Return a change that adds a faulty video to a data set in the layout of MeViS."""

    def apply(root: Path) -> None:
        expressions = {"0": {"exp": "what moves right", "anno_id": [7]}}
        in_json("meta_expressions.json", lambda m: m["videos"].update({name: video(expressions) | changes}))(root)
        if name.isalpha():
            write_frames(root / "JPEGImages" / name, NAMES)

    return apply


FRAMES = "JPEGImages/clip"
REVOS = {"meta": "../meta_expressions_valid_.json", "name": "JPEGImages/source/clip"}
YOUTUBE = {"meta": "../meta_expressions/train/meta_expressions.json", "name": "train"}
SAV = "sav_train/sav_000/sav_000001_manual.json"
SMALL = rle(np.ones((4, 4), bool))


def question(number: str, **changes: str) -> Change:
    return in_video(lambda v: v["questions"][number].update(changes), "test_v2.json", "match_0010_0012")


# layout -> [(change, end of the file name, record, field, part of the message)]; one copy has all faults of a layout.
FAULTS: dict[str, list[tuple[Change, str, str, str, str]]] = {
    "mevis": [
        (without(f"{FRAMES}/00005.jpg"), "meta_expressions.json", "videos['clip']", "frames[1]", "is missing"),
        (garbage(f"{FRAMES}/00010.jpg"), "00010.jpg", "videos['clip']", "frames[2]", "expected a JPEG"),
        (image(f"{FRAMES}/00015.jpg", "RGB", (8, 8)), "00015.jpg", "videos['clip']", "frames[3]", "found 8x8"),
        (
            in_expression("2", lambda e: e.update(anno_id=[7, 99])),
            "meta_expressions.json", "videos['clip'].expressions['2']", "anno_id", "no masks under '99'",
        ),
        (
            in_video(lambda v: v["expressions"].update({"3": {"exp": 3}})),
            "meta_expressions.json", "videos['clip'].expressions['3']", "exp", "expected str, found int",
        ),
        (
            in_video(lambda v: v["expressions"].update({"4": {"exp": "it", "anno_id": [None]}})),
            "meta_expressions.json", "videos['clip'].expressions['4']", "anno_id", "expected numbers or strings",
        ),
        (
            in_masks(lambda m: m["7"].__setitem__(0, {"size": [HEIGHT, WIDTH], "counts": "zz"})),
            "mask_dict.json", "['7']", "[0]", "",
        ),
        (in_masks(lambda m: m["7"].__setitem__(1, SMALL)), "mask_dict.json", "['7']", "[1].size", "found [4, 4]"),
        (in_masks(lambda m: m["7"].__setitem__(2, [1])), "mask_dict.json", "['7']", "[2]", "expected null or"),
        (in_masks(lambda m: m["8"].pop()), "mask_dict.json", "['8']", "", "expected a list of 4 masks"),
        (further_video("a", frames=NAMES[::-1]), "meta_expressions.json", "videos['a']", "frames", "string order"),
        (further_video("b", expressions=[]), "meta_expressions.json", "videos['b']", "expressions", "expected dict"),
        (further_video("../c"), "meta_expressions.json", "videos['../c']", "", "leaves the data root"),
        (further_video("4"), "meta_expressions.json", "videos['4']", "", "expected the folder"),
        (
            further_video("d", height=48, width=81),
            "mask_dict.json", "['7']", "[0].size", "expected [48, 81]",
        ),
    ],
    "ref_youtube_vos": [
        (without("Annotations/train/00005.png"), "00005.png", "videos['train'].expressions['0']", "frame 1", "none"),
        (garbage("Annotations/train/00010.png"), "00010.png", "videos['train'].expressions['0']", "frame 2", "PNG"),
        (
            in_expression("1", lambda e: e.update(obj_id="255"), **YOUTUBE),
            "train/meta_expressions.json", "videos['train'].expressions['1']", "obj_id", "palette values from 1",
        ),
    ],
    "ref_davis17": [
        (in_pickle(lambda m: m.pop("3")), "meta_expressions.json", "videos['clip'].expressions['3']", "anno_id", "'3'"),
        (in_pickle(lambda m: m.update({"2": {}})), "mask_dict.pkl", "['2']", "", "found dict"),
    ],
    "ref_davis17 PNG": [
        (
            image("Annotations/clip/00000.png", size=(8, 8)),
            "00000.png", "videos['clip'].expressions['0']", "frame 0", "expected 80x48",
        ),
        (
            image("Annotations/clip/00005.png", "RGB"),
            "00005.png", "videos['clip'].expressions['0']", "frame 1", "found mode RGB",
        ),
    ],
    "revos": [
        (
            in_expression("0", lambda e: e.update(type_id=3), **REVOS),
            "valid_.json", f"videos['{REVOS['name']}'].expressions['0']", "type_id", "expected one of 0, 1, 2, found 3",
        ),
        (
            in_expression("2", lambda e: e.pop("type_id"), **REVOS),
            "valid_.json", f"videos['{REVOS['name']}'].expressions['2']", "type_id", "the field is missing",
        ),
    ],
    "reason_vos": [
        (
            renamed("Annotations/mose_clip_2"),
            "meta_expressions.json", "videos['clip']", "expressions[1]", "expected the folder of masks",
        ),
        (
            in_video(lambda v: v["expressions"][0].pop("exp_text")),
            "meta_expressions.json", "videos['clip'].expressions[0]", "exp_text", "the field is missing",
        ),
        (
            in_video(lambda v: v["expressions"].append({"exp_id": "x"})),
            "meta_expressions.json", "videos['clip'].expressions[3]", "exp_id", "expected int",
        ),
    ],
    "long_rvos": [
        (
            in_expression("0", lambda e: e.update(type="calm")),
            "meta_expressions.json", "videos['clip'].expressions['0']", "type", "found 'calm'",
        ),
        (
            in_video(lambda v: v["expressions"].update({"3": {"exp": "it", "obj_id": 3, "type": "static"}})),
            "meta_expressions.json", "videos['clip'].expressions['3']", "", "expected the folder of masks",
        ),
        (cut("Annotations/clip/1/00000.png"), "00000.png", "videos['clip'].expressions['2']", "frame 0", "PNG"),
    ],
    "long_rvos train": [
        (cut("mask_dict.json"), "mask_dict.json", "", "", "expected JSON"),
        (garbage(f"{FRAMES}/00000.jpg"), "00000.jpg", "videos['clip']", "frames[0]", "expected a JPEG"),
    ],
    "ref_sav": [
        (
            in_video(lambda v: v.update(height="48"), "meta_expressions_valid.json", "sav_000001"),
            "meta_expressions_valid.json", "videos['sav_000001']", "height", "expected int, found str",
        ),
    ],
    "ref_sav train": [
        (in_json(SAV, lambda m: m["masklet"][2].pop()), "_manual.json", "masklet", "[2]", "masks of 1 objects"),
        (
            in_json(SAV, lambda m: m["masklet"][1].__setitem__(0, SMALL)),
            "_manual.json", "masklet", "[1][0].size", "expected [48, 80]",
        ),
        (
            in_json("Ref-SAV.json", lambda m: m["sav_000001"]["objects"].update(x={"formated": "it"})),
            "Ref-SAV.json", "videos['sav_000001'].objects['x']", "", "number of a masklet",
        ),
        (
            in_json("Ref-SAV.json", lambda m: m.update(gone=m["sav_000001"] | {"video_path": "sav_train/gone.mp4"})),
            "Ref-SAV.json", "videos['gone']", "video_path", "expected the video",
        ),
    ],
    "groundmore": [
        (question("0", q_type="Why"), "test_v2.json", "videos['match_0010_0012'].questions['0']", "q_type", "'Why'"),
        (
            question("1", action_start="00:12"),
            "test_v2.json", "videos['match_0010_0012'].questions['1']", "action_end", "after action_start",
        ),
    ],
}  # fmt: skip


def damaged(layout: str, folder: Path) -> tuple[str, Path]:
    """Write the data set with all of its faults; return its name and root."""
    name, write = LAYOUTS[layout]
    root = write(folder)
    for change, *_ in FAULTS[layout]:
        change(root)
    return name, root
