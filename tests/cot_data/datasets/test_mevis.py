"""The loader of the MeViS layout: its tasks and its error messages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from cot_data.datasets import load_tasks
from cot_data.datasets.mevis import load_mevis
from env.errors import DataError

HEIGHT, WIDTH, FRAMES = 6, 8, ["00000", "00001", "00002"]
LEFT_HW = np.zeros((HEIGHT, WIDTH), bool)
LEFT_HW[1:4, 1:3] = True
RIGHT_HW = np.zeros((HEIGHT, WIDTH), bool)
RIGHT_HW[2:6, 2:6] = True
EMPTY_HW = np.zeros((HEIGHT, WIDTH), bool)


def rle(mask_HW: np.ndarray) -> dict[str, Any]:
    encoded: Any = coco_mask.encode(np.asfortranarray(mask_HW.astype(np.uint8)))
    return {"size": list(mask_HW.shape), "counts": encoded["counts"].decode()}


def meta() -> dict[str, Any]:
    expressions = {
        "2": {"exp": "both", "anno_id": [7, "8"]},
        "10": {"exp": "left", "anno_id": 7},
        "0": {"exp": "nothing", "anno_id": []},
        "3": {"exp": "unknown"},
    }
    return {"videos": {"b": {"frames": FRAMES, "expressions": expressions}}}


def masks() -> dict[str, Any]:
    return {"7": [rle(LEFT_HW), None, None], "8": [rle(RIGHT_HW), rle(RIGHT_HW), rle(EMPTY_HW)]}


def write(root: Path, meta_json: Any, masks_json: Any) -> Path:
    folder = root / "JPEGImages" / "b"
    folder.mkdir(parents=True)
    for frame in FRAMES:
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"{frame}.jpg")
    (root / "meta_expressions.json").write_text(json.dumps(meta_json))
    if masks_json is not None:
        (root / "mask_dict.json").write_text(json.dumps(masks_json))
    return root


def test_expressions_come_in_string_order_with_the_union_of_their_masks(tmp_path: Path) -> None:
    tasks = {task.expression: task for task in load_tasks("mevis", write(tmp_path / "set", meta(), masks()))}
    assert [task.task_id for task in tasks.values()] == ["set/b/0", "set/b/10", "set/b/2", "set/b/3"]
    assert tasks["nothing"].gold == (None, None, None)
    assert tasks["unknown"].gold == ()
    assert tasks["left"].gold == (rle(LEFT_HW), None, None)
    union = tasks["both"].gold
    assert union[0] is not None and union[1] == rle(RIGHT_HW) and union[2] is None  # an empty mask counts as none
    np.testing.assert_array_equal(coco_mask.decode(union[0]), LEFT_HW | RIGHT_HW)  # type: ignore[arg-type]
    video = tasks["left"].video
    assert (video.root, video.path, video.frames) == (str(tmp_path / "set"), "JPEGImages/b", tuple(FRAMES))
    assert (video.num_frames, video.height, video.width) == (3, HEIGHT, WIDTH)


def test_without_masks_gold_is_unknown(tmp_path: Path) -> None:
    assert all(task.gold == () for task in load_mevis(write(tmp_path, meta(), None)))


def video(change: Callable[[dict[str, Any]], None]) -> tuple[Any, Any]:
    """Both files, with one change to the video's record."""
    made = meta()
    change(made["videos"]["b"])
    return made, masks()


def annotation(value: Any) -> tuple[Any, Any]:
    return meta(), masks() | {"7": value}


SMALL = rle(LEFT_HW[:4])

FAULTS = {
    "frame is missing": (video(lambda v: v.update(frames=[*FRAMES, "00003"])), r"frames\[3\].*00003\.jpg is missing"),
    "frames out of order": (video(lambda v: v.update(frames=FRAMES[::-1])), "frames: .*string order"),
    "frame twice": (video(lambda v: v.update(frames=["00000", "00000"])), "frames: .*once"),
    "no frames": (video(lambda v: v.update(frames=[])), "frames: "),
    "frame is a number": (video(lambda v: v.update(frames=[0])), r"frames\[0\].*found 0"),
    "frame leaves the root": (video(lambda v: v.update(frames=["../b/00000"])), r"frames\[0\]"),
    "frames is no list": (video(lambda v: v.update(frames="00000")), "frames: expected list, found str"),
    "field is missing": (video(lambda v: v.pop("expressions")), "expressions: the field is missing; found frames"),
    "exp is a number": (
        video(lambda v: v["expressions"].update(x={"exp": 3})),
        r"\['x'\]\.exp: expected str, found int",
    ),
    "anno_id is unknown": (
        video(lambda v: v["expressions"].update(x={"exp": "it", "anno_id": [9]})),
        r"\['x'\]\.anno_id.*no masks under '9'",
    ),
    "anno_id is null": (
        video(lambda v: v["expressions"].update(x={"exp": "it", "anno_id": [None]})),
        r"\['x'\]\.anno_id: expected numbers or strings",
    ),
    "width is missing": (video(lambda v: v.update(height=6)), "width: the field is missing"),
    "height is huge": (video(lambda v: v.update(height=1 << 30, width=8)), "height: expected a frame of 1 to"),
    "height is another": (
        video(lambda v: v.update(height=7, width=8)),
        r"size: expected \[7, 8\].*found \[6, 8\]",
    ),
    "mask of another size": (annotation([SMALL, None, None]), r"\['7'\]\[0\]\.size: expected \[6, 8\].*found \[4, 8\]"),
    "mask list too short": (annotation([None, None]), r"\['7'\]: expected a list of 3 masks.*found 2"),
    "mask list is no list": (annotation({"0": None}), r"\['7'\]: expected a list of masks.*found dict"),
    "mask is no RLE": (annotation([[1, 2], None, None]), r"\['7'\]\[0\]: expected null or"),
    "counts are a list": (
        annotation([{"size": [6, 8], "counts": [48]}, None, None]),
        r"\['7'\]\[0\]: expected null or",
    ),
    "counts are damaged": (annotation([{"size": [6, 8], "counts": "zzzz"}] * 3), "mask of frame 0"),
    "videos is a list": (({"videos": []}, masks()), "meta_expressions.json.videos: expected dict, found list"),
    "masks are a list": ((meta(), []), "mask_dict.json: expected an object"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_errors_name_file_record_and_field(tmp_path: Path, name: str) -> None:
    (meta_json, masks_json), message = FAULTS[name]
    with pytest.raises(DataError, match=message):
        list(load_mevis(write(tmp_path, meta_json, masks_json)))


@pytest.mark.parametrize("name", ["../outside", "/etc", "b/../../outside", "..", ""])
def test_a_video_stays_in_its_root(tmp_path: Path, name: str) -> None:
    made = meta()
    made["videos"][name] = made["videos"].pop("b")
    (tmp_path / "outside").mkdir()
    with pytest.raises(DataError, match="leaves the data root"):
        load_mevis(write(tmp_path / "set", made, masks()))


def test_a_link_out_of_the_root_is_rejected(tmp_path: Path) -> None:
    root = write(tmp_path / "set", meta(), masks())
    (root / "JPEGImages" / "b").rename(tmp_path / "b")
    (root / "JPEGImages" / "b").symlink_to(tmp_path / "b")
    with pytest.raises(DataError, match="leads out of the data root"):
        list(load_mevis(root))


def test_errors_name_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"meta_expressions\.json: expected a JSON file, found none"):
        load_mevis(tmp_path)
    root = write(tmp_path / "set", meta(), masks())
    (root / "JPEGImages" / "b" / "00000.jpg").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"00000\.jpg: videos\['b'\]\.frames\[0\]: cannot be decoded as JPEG"):
        list(load_mevis(root))
    (root / "mask_dict.json").write_text('{"7": [')
    with pytest.raises(DataError, match=r"mask_dict\.json: expected JSON"):
        load_mevis(root)


def test_an_unknown_data_set_suggests_the_nearest_one() -> None:
    with pytest.raises(DataError, match=r"data\.dataset: unknown 'mevi'; known are mevis, .*; did you mean mevis\?"):
        load_tasks("mevi", "nowhere")
    with pytest.raises(DataError, match=r"data\.dataset: unknown 'xyz'; known are mevis, ref_youtube_vos"):
        load_tasks("xyz", "nowhere")


def test_data_sets_are_listed_without_heavy_imports() -> None:
    """A config names data sets, and is checked before anything heavy is imported."""
    heavy = ("torch", "transformers", "vllm", "ray", "datasets")
    code = f"import sys, cot_data.datasets; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_errors_name_labels_of_the_wrong_type(tmp_path: Path) -> None:
    root = write(tmp_path, meta(), masks())
    label = {"family": "motion", "explore": "", "evidence": [3], "caption": ""}
    (root / "moving_shapes.json").write_text(json.dumps({"videos": {"b": {"expressions": {"2": label}}}}))
    with pytest.raises(DataError, match=r"\['2'\]\.evidence: expected frames 0 to 2, found 3"):
        load_mevis(root)
