"""Every data set in miniature, in its published layout, written at test time.

All of them show the same video: object 1 moves right in every frame; object 2 moves left and is absent in the last one.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from tests.helpers.env_videos import write_video

HEIGHT, WIDTH, NUM_FRAMES = 48, 80, 4
NAMES = [f"{5 * t:05d}" for t in range(NUM_FRAMES)]  # every fifth frame, as in Ref-YouTube-VOS
SIZE = {"height": HEIGHT, "width": WIDTH}


def ids(t: int) -> np.ndarray:
    """Return uint8 [H, W]: the object at each pixel of frame t, 0 for none."""
    ids_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids_HW[4:20, 4 + 6 * t : 20 + 6 * t] = 1
    if t < NUM_FRAMES - 1:
        ids_HW[24:40, 50 - 6 * t : 70 - 6 * t] = 2
    return ids_HW


def target(*obj_ids: int) -> np.ndarray:
    """Return bool [T, H, W]: the pixels of any of the objects."""
    return np.stack([np.isin(ids(t), obj_ids) for t in range(NUM_FRAMES)])


def rle(mask_HW: np.ndarray) -> dict[str, Any]:
    encoded: Any = coco_mask.encode(np.asfortranarray(mask_HW.astype(np.uint8)))
    return {"size": list(mask_HW.shape), "counts": encoded["counts"].decode()}


def rles(obj_id: int) -> list[dict[str, Any] | None]:
    return [rle(mask_HW) if mask_HW.any() else None for mask_HW in target(obj_id)]


def write_frames(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for t, name in enumerate(names):
        Image.fromarray(np.stack([ids(t) * 100] * 3, -1)).save(folder / f"{name}.jpg")


def write_palette(folder: Path, names: list[str]) -> None:
    """Write palette PNGs whose pixels are object ids, with one void pixel (255), as in some files of YouTube-VOS."""
    folder.mkdir(parents=True, exist_ok=True)
    for t, name in enumerate(names):
        ids_HW = ids(t)
        ids_HW[0, 0] = 255
        palette_image(ids_HW).save(folder / f"{name}.png")


def palette_image(ids_HW: np.ndarray) -> Image.Image:
    image = Image.fromarray(ids_HW)
    image.putpalette([value for shade in range(256) for value in (shade, shade, 255 - shade)])
    return image


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def video(expressions: Any, **more: Any) -> dict[str, Any]:
    return {"frames": NAMES, "expressions": expressions, **more}


def mevis(out: Path) -> Path:
    """Write the split train, with its masks in JSON; expression 10 comes before 2 in string order."""
    root = out / "mevis" / "train"
    expressions = {
        "2": {"exp": "both shapes", "obj_id": [1, 2], "anno_id": [7, 8]},
        "10": {"exp": "what moves left", "obj_id": [2], "anno_id": [8]},
    }
    write_frames(root / "JPEGImages" / "clip", NAMES)
    write_json(root / "meta_expressions.json", {"videos": {"clip": video(expressions, vid_id=3)}})
    write_json(root / "mask_dict.json", {"7": rles(1), "8": rles(2)})
    return root


def mevis_test(out: Path) -> Path:
    """Write the split test: another name of the metadata, no masks."""
    root = out / "mevis" / "test"
    write_frames(root / "JPEGImages" / "clip", NAMES)
    videos = {"clip": video({"0": {"exp": "what moves right"}})}
    write_json(root / "meta_expressions_release.json", {"videos": videos})
    return root


def ref_youtube_vos(out: Path) -> Path:
    folder = out / "rvos"
    meta = folder / "meta_expressions"
    for split in ("train", "valid", "test"):
        write_frames(folder / split / "JPEGImages" / split, NAMES)
    write_palette(folder / "train" / "Annotations" / "train", NAMES)
    seen = {"0": {"exp": "what moves right", "obj_id": "1"}, "1": {"exp": "what moves left", "obj_id": "2"}}
    hidden = {"0": {"exp": "what moves right"}}
    write_json(meta / "train" / "meta_expressions.json", {"videos": {"train": video(seen)}})
    write_json(meta / "valid" / "meta_expressions.json", {"videos": {"test": video(hidden), "valid": video(hidden)}})
    write_json(meta / "test" / "meta_expressions.json", {"videos": {"test": video(hidden)}})
    return folder / "train"


def ref_youtube_vos_valid(out: Path) -> Path:
    return ref_youtube_vos(out).parent / "valid"


def ref_davis17(out: Path) -> Path:
    """Write the split valid, with a pickle of masks whose keys are the numbers of expressions; RLE counts are bytes."""
    folder = out / "davis17"
    write_frames(folder / "valid" / "JPEGImages" / "clip", NAMES)
    write_palette(folder / "valid" / "Annotations" / "clip", NAMES)
    texts = ["what moves right", "the long one", "what moves left", "the one that goes"]
    expressions = {str(i): {"exp": text, "obj_id": str(1 + i // 2)} for i, text in enumerate(texts)}
    write_json(
        folder / "meta_expressions" / "valid" / "meta_expressions.json", {"videos": {"clip": video(expressions)}}
    )
    masks = {str(i): [as_bytes(each) for each in rles(1 + i // 2)] for i in range(4)}
    with open(folder / "valid" / "mask_dict.pkl", "wb") as file:
        pickle.dump(masks, file)
    return folder / "valid"


def as_bytes(each: dict[str, Any] | None) -> dict[str, Any] | None:
    return each and {"size": each["size"], "counts": each["counts"].encode()}


def ref_davis17_without_pickle(out: Path) -> Path:
    root = ref_davis17(out)
    (root / "mask_dict.pkl").unlink()
    return root


def revos(out: Path) -> Path:
    """Write the split valid; the name of the video is a path."""
    folder = out / "revos"
    write_frames(folder / "JPEGImages" / "source" / "clip", NAMES)
    expressions = {
        "0": {"exp": "what moves right", "obj_id": [1], "anno_id": [7], "type_id": 0},
        "1": {"exp": "which would leave the picture first?", "obj_id": [1, 2], "anno_id": [7, 8], "type_id": 1},
        "2": {"exp": "the elephant", "obj_id": [], "anno_id": [], "type_id": 2},
    }
    videos = {"JPEGImages/source/clip": video(expressions, vid_id=0, **SIZE)}
    write_json(folder / "meta_expressions_valid_.json", {"videos": videos})
    write_json(folder / "mask_dict.json", {"7": rles(1), "8": rles(2)})
    return folder / "valid"


def revos_short_names(out: Path) -> Path:
    """Write the same with a name relative to JPEGImages."""
    root = revos(out)
    meta = root.parent / "meta_expressions_valid_.json"
    meta.write_text(meta.read_text().replace("JPEGImages/source/clip", "source/clip"))
    return root


def reason_vos(out: Path) -> Path:
    """Write ReasonVOS; it has expression 1 twice."""
    root = out / "ReasonVOS"
    write_frames(root / "JPEGImages" / "clip", NAMES)
    for obj_id in (1, 2):
        folder = root / "Annotations" / f"mose_clip_{obj_id}"
        write_black_and_white(folder, obj_id, always=True)
    texts = [(0, 1, "what gains on the other?"), (1, 2, "what is about to go?"), (1, 1, "what stays?")]
    rows = [{"exp_id": exp_id, "obj_id": obj_id, "exp_text": text, "is_sent": 1} for exp_id, obj_id, text in texts]
    write_json(root / "meta_expressions.json", {"videos": {"clip": video(rows, source="mose")}})
    return root


def write_black_and_white(folder: Path, obj_id: int, always: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for t, name in enumerate(NAMES):
        if always or target(obj_id)[t].any():
            Image.fromarray(target(obj_id)[t].astype(np.uint8) * 255).save(folder / f"{name}.png")


def long_rvos(out: Path) -> Path:
    """Write the split valid: a folder of masks per object, without files for frames where it is absent."""
    root = out / "Long-RVOS" / "valid"
    write_frames(root / "JPEGImages" / "clip", NAMES)
    for obj_id in (1, 2):
        write_black_and_white(root / "Annotations" / "clip" / str(obj_id), obj_id, always=False)
    expressions = {
        "0": {"exp": "the long one", "obj_id": 1, "type": "static"},
        "1": {"exp": "what moves left", "obj_id": "2", "type": "dynamic"},
        "2": {"exp": "the two that pass", "obj_id": [1, 2], "type": "hybrid"},
    }
    write_json(root / "meta_expressions.json", {"videos": {"clip": video(expressions)}})
    return root


def long_rvos_train(out: Path) -> Path:
    """Write the split train as VideoSEG-O3 reads it."""
    root = out / "Long-RVOS" / "train"
    write_frames(root / "JPEGImages" / "clip", NAMES)
    expressions = {"0": {"exp": "the long one", "obj_id": 1, "anno_id": [7], "type": "static"}}
    write_json(root / "meta_expressions_with_anno.json", {"videos": {"clip": video(expressions)}})
    write_json(root / "mask_dict.json", {"7": rles(1)})
    return root


def ref_sav(out: Path) -> Path:
    """Write the evaluation set."""
    root = out / "ref_sav_eval"
    write_frames(root / "videos" / "sav_000001", NAMES)
    expressions = {
        "0": {"exp": "the bar that goes right all the while", "anno_id": [7], "type_id": 0},
        "1": {"exp": "the left one", "anno_id": ["8"], "type_id": 1},
    }
    write_json(root / "meta_expressions_valid.json", {"videos": {"sav_000001": video(expressions, **SIZE)}})
    write_json(root / "mask_dict.json", {"7": rles(1), "8": rles(2)})
    return root


def ref_sav_train(out: Path) -> Path:
    """Write a video file of 13 frames, every fourth with masks; paths repeat their folder, as published."""
    root = out / "ref_sav"
    folder = root / "sav_train" / "sav_000"
    folder.mkdir(parents=True)
    write_video(folder / "sav_000001.mp4", 4 * (NUM_FRAMES - 1) + 1, "libx264")
    masklet = [[rle(ids(t) == 1), rle(ids(t) == 2)] for t in range(NUM_FRAMES)]
    manual = {"video_id": "sav_000001", "video_height": float(HEIGHT), "video_width": float(WIDTH), "masklet": masklet}
    write_json(folder / "sav_000001_manual.json", manual)
    path = "sav_000/sav_train/sav_000/sav_000001"
    objects = {"0": {"formated": "the first bar"}, "1": {"formated": "the second bar"}}
    record = {"video_path": f"{path}.mp4", "anno_path": f"{path}_manual.json", "objects": objects}
    write_json(root / "Ref-SAV.json", {"sav_000001": record})
    return root


def groundmore(out: Path) -> Path:
    """Write a clip of two seconds; one question is about all of it, the other about the second half.

    Frame i of the clip is frame i // 3 of the video; mask files have two kinds of names.
    """
    root = out / "GroundMoRe"
    clip = root / "annotations" / "match_0010_0012"
    (clip / "images").mkdir(parents=True)
    (clip / "masks").mkdir()
    for i in range(3 * NUM_FRAMES):
        Image.fromarray(np.stack([ids(i // 3) * 100] * 3, -1)).save(clip / "images" / f"frame_{i:06d}.jpg")
        name = f"frame_{i:06d}.png" if i % 2 else f"{i:07d}.png"
        palette_image(ids(i // 3)).save(clip / "masks" / name)
    question = {"question": "Who stays?", "answer": "the upper one", "obj_id": "1", "q_type": "Causal"}
    later = {"question": "Who goes?", "answer": "the lower one", "obj_id": 2, "q_type": "Sequential"}
    questions = {
        "0": {**question, "action_start": "00:10", "action_end": "00:12"},
        "1": {**later, "action_start": "0:11", "action_end": "00:12"},
    }
    write_json(root / "test_v2.json", {"videos": {"match_0010_0012": {"questions": questions}}})
    return root


def clip_target(obj_id: int, start: int, end: int) -> np.ndarray:
    """Return bool [12, H, W] of GroundMoRe's clip: the object in frames [start, end), nothing elsewhere."""
    masks_THW = np.repeat(target(obj_id), 3, axis=0)
    masks_THW[:start] = False
    masks_THW[end:] = False
    return masks_THW


# name -> (key of DATASETS, writer)
LAYOUTS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "mevis": ("mevis", mevis),
    "mevis test": ("mevis", mevis_test),
    "ref_youtube_vos": ("ref_youtube_vos", ref_youtube_vos),
    "ref_youtube_vos valid": ("ref_youtube_vos", ref_youtube_vos_valid),
    "ref_davis17": ("ref_davis17", ref_davis17),
    "ref_davis17 PNG": ("ref_davis17", ref_davis17_without_pickle),
    "revos": ("revos", revos),
    "revos, short names": ("revos", revos_short_names),
    "reason_vos": ("reason_vos", reason_vos),
    "long_rvos": ("long_rvos", long_rvos),
    "long_rvos train": ("long_rvos", long_rvos_train),
    "ref_sav": ("ref_sav", ref_sav),
    "ref_sav train": ("ref_sav", ref_sav_train),
    "groundmore": ("groundmore", groundmore),
}
