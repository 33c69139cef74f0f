"""Time the opening of a data set of the size of ReVOS: `python -m tests.bench.dataset_open [--out DIR]`.

Writes 1,000 videos with 35,000 expressions and about 300 MB of masks as JSON (once; all videos have the same small
folder of frames), then opens it in new processes: the first converts the masks, later ones read the converted masks.
Prints seconds and peak memory of each.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from cot_data.formats.mask_table import CACHE
from env.rle import encode

VIDEOS, EXPRESSIONS, FRAMES, OBJECTS = 1000, 35, 75, 9  # the last three per video
HEIGHT, WIDTH = 720, 1280
SHAPES = 64  # different masks; all masks are sampled from them
PROBE = """
import pickle, resource, sys, time
seconds = lambda: (time.perf_counter(), time.process_time())
marks = [seconds()]
from cot_data.datasets import load_tasks
marks.append(seconds())
tasks = load_tasks("revos", sys.argv[1])
marks.append(seconds())
tasks[0]
marks.append(seconds())
for at in range(100):
    tasks[at * len(tasks) // 100]
marks.append(seconds())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
names = ("import", "open", "first task", "100 tasks")
for name, before, after in zip(names, marks, marks[1:]):
    print(f"{name} {after[0] - before[0]:.1f} s ({after[1] - before[1]:.1f} of CPU)", end=", ")
print(f"peak {peak:.0f} MiB, pickled {len(pickle.dumps(tasks)) / 1e6:.1f} MB")
"""


def ragged_mask(rng: np.random.Generator) -> np.ndarray:
    """Return bool [H, W]: a blob with an uneven rim; its JSON is about as long as that of a real mask."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    y, x, radius = rng.uniform(200, 500), rng.uniform(300, 900), rng.uniform(60, 100)
    rim = radius * (1 + 0.1 * np.sin(7 * np.arctan2(rows - y, columns - x) + rng.uniform(0, 6)))
    return np.hypot(rows - y, columns - x) < rim


def write(folder: Path) -> None:
    """Write the data set in the layout of ReVOS, split valid."""
    rng = np.random.default_rng(0)
    shapes = [json.dumps(encode(ragged_mask(rng))) for _ in range(SHAPES)]
    names = [f"{t:05d}" for t in range(FRAMES)]
    shared = folder / "JPEGImages" / "shared"
    shared.mkdir(parents=True)
    for name in names:
        Image.new("RGB", (8, 8)).save(shared / f"{name}.jpg")
    videos = {}
    for i in range(VIDEOS):
        (folder / "JPEGImages" / f"v{i:04d}").symlink_to("shared")
        expressions = {}
        for k in range(EXPRESSIONS):
            ids = rng.choice(OBJECTS, 1 + k % 2, replace=False) + i * OBJECTS
            text = f"the thing number {k} of video {i}, which does what the others do not do at that time"
            expressions[str(k)] = {"exp": text, "anno_id": ids.tolist(), "obj_id": ids.tolist(), "type_id": k % 2}
        videos[f"JPEGImages/v{i:04d}"] = {
            "frames": names, "vid_id": i, "height": HEIGHT, "width": WIDTH, "expressions": expressions
        }  # fmt: skip
    (folder / "meta_expressions_valid_.json").write_text(json.dumps({"videos": videos}))
    with open(folder / "mask_dict.json", "w") as file:
        for anno_id in range(VIDEOS * OBJECTS):
            masks = ", ".join(shapes[at] for at in rng.integers(0, SHAPES, FRAMES))
            file.write(f'{", " if anno_id else "{"}"{anno_id}": [{masks}]')
        file.write("}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder to write and keep (default: a temporary one)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.out or Path(temporary) / "revos"
        if not folder.is_dir():
            write(folder)
        shutil.rmtree(folder / CACHE, ignore_errors=True)
        size = (folder / "mask_dict.json").stat().st_size
        print(f"masks: {size / 1e6:.0f} MB of JSON")
        for label in ("first", "later", "later"):
            command = [sys.executable, "-c", PROBE, str(folder / "valid")]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"{label}: {done.stdout.strip()}")


if __name__ == "__main__":
    main()
