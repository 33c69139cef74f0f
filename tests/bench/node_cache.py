"""Time the reading of a frame that another process of the node has decoded: `python -m tests.bench.node_cache`.

Prints a Markdown table of CPU-milliseconds per frame: decode and resize (as a worker or a learner alone does), the same
and write the result to the cache of the node, and read it from there.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from env.frames import FrameCache, fit_size, probe
from env.node_cache import NodeCache
from env.types import FrameRef

SIZES = {  # name -> (width, height, suffix, shown pixels, factor)
    "1280 x 720 JPEG, shown in 25,088 pixels": (1280, 720, ".jpg", 25088, 32),
    "1280 x 720 JPEG, shown in 401,408 pixels": (1280, 720, ".jpg", 401408, 32),
    "64 x 64 PNG, shown as it is": (64, 64, ".png", 4096, 8),
}


def write(folder: Path, width: int, height: int, suffix: str, count: int) -> None:
    """Write frames with edges and some noise.

    Args:
        folder: new folder.
        width, height: size in pixels.
        suffix: ".jpg" or ".png".
        count: number of frames.
    """
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        blocks = Image.fromarray(rng.integers(0, 256, (9, 16, 3), np.uint8)).resize((width, height))
        noisy = np.clip(np.array(blocks) + rng.normal(0, 4, (height, width, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).filter(ImageFilter.GaussianBlur(1)).save(folder / f"{number:05d}{suffix}", quality=90)


def cost(count: int, read: Callable[[int], object]) -> float:
    """Return CPU-milliseconds per frame."""
    started = time.process_time()
    for number in range(count):
        read(number)
    return 1000 * (time.process_time() - started) / count


def measure(name: str, folder: Path, count: int) -> str:
    """Return a row of the table.

    Args:
        name: key of SIZES.
        folder: where frames are written.
        count: number of frames.
    """
    width, height, suffix, pixels, factor = SIZES[name]
    write(folder / "clip", width, height, suffix, count)
    ref = probe(folder / "clip")
    frames = [FrameRef(number, *fit_size(height, width, pixels, factor), "zoom") for number in range(count)]
    costs = []
    for node in (None, NodeCache(name, 1 << 30), NodeCache(name, 1 << 30)):
        cache = FrameCache(node=node)
        costs.append(cost(count, lambda number, cache=cache: cache.pixels(ref, frames[number])))
    NodeCache(name, 1 << 30).clear()
    decoded, written, read = costs
    return f"| {name} | {decoded:.2f} | {written:.2f} | {read:.2f} | {decoded / read:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Time frames that the processes of a node share.")
    parser.add_argument("--frames", type=int, default=100)
    args = parser.parse_args()
    print("| frames | decoded | decoded and written | read | decoded / read |")
    print("|---|---|---|---|---|")
    for name in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            print(measure(name, Path(folder), args.frames), flush=True)


if __name__ == "__main__":
    main()
