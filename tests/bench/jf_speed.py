"""Time J and F against the algorithm of the official davis2017 code, on one core, and check that the values are equal.

    VIDEOSEG_CLIPS=/data/clips python -m tests.bench.jf_speed [--frames 40]

The official package is not on PyPI, so its algorithm is written here from its definition: whole frames of one byte per
pixel, four shifted copies for the contour map, `cv2.dilate` with a disk. Masks are of 854 x 480: real clips with the
predictions of OSVOS (enlarged by nearest pixel if they are smaller) and ellipses. Both take turns frame by frame;
times are medians of processor seconds. Lower bound: both masks have to be read once (0.8 MB) and packed. The command
prints a Markdown table.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from cot_data.clips import clips_folder
from rewards.jf import frame_jf
from rewards.packed_masks import MaskPair

SIZE = (854, 480)  # width, height
Pair = tuple[np.ndarray, np.ndarray]


def plain_jf(gold_HW: np.ndarray, pred_HW: np.ndarray) -> tuple[float, float]:
    """Return J and F of two bool masks by the algorithm of the official code."""
    union = np.sum(gold_HW | pred_HW)
    j = float(np.sum(gold_HW & pred_HW) / union) if union else 1.0
    radius = math.ceil(0.008 * math.hypot(*gold_HW.shape))
    offsets = np.arange(-radius, radius + 1)
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.uint8)
    gold_edge_HW, pred_edge_HW = _contour_map(gold_HW), _contour_map(pred_HW)
    gold_wide_HW = cv2.dilate(gold_edge_HW.astype(np.uint8), disk)
    pred_wide_HW = cv2.dilate(pred_edge_HW.astype(np.uint8), disk)
    num_gold, num_pred = np.sum(gold_edge_HW), np.sum(pred_edge_HW)
    if num_gold == 0 or num_pred == 0:
        return j, float(num_gold == num_pred)
    precision = np.sum(pred_edge_HW * gold_wide_HW) / num_pred
    recall = np.sum(gold_edge_HW * pred_wide_HW) / num_gold
    return j, float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _contour_map(mask_HW: np.ndarray) -> np.ndarray:
    right_HW, below_HW, diagonal_HW = (np.zeros_like(mask_HW) for _ in range(3))
    right_HW[:, :-1] = mask_HW[:, 1:]
    below_HW[:-1] = mask_HW[1:]
    diagonal_HW[:-1, :-1] = mask_HW[1:, 1:]
    edge_HW = (mask_HW ^ right_HW) | (mask_HW ^ below_HW) | (mask_HW ^ diagonal_HW)
    edge_HW[-1] = mask_HW[-1] ^ right_HW[-1]
    edge_HW[:, -1] = mask_HW[:, -1] ^ below_HW[:, -1]
    edge_HW[-1, -1] = False
    return edge_HW


def clip_pairs(clip: Path, most: int) -> Iterator[Pair]:
    """Yield gold and OSVOS masks of the clip's first object, of at most `most` frames."""
    for path in sorted((clip / "masks").glob("*.png"))[:most]:
        images = [Image.open(folder / path.name) for folder in (clip / "masks", clip / "pred_osvos")]
        gold_HW, pred_HW = (np.asarray(image.resize(SIZE, Image.Resampling.NEAREST)) == 1 for image in images)
        yield gold_HW, pred_HW


def ellipse_pairs(share: float, most: int) -> Iterator[Pair]:
    """Yield `most` pairs of ellipses with `share` of the image's sides, the prediction shifted; 0 gives empty masks."""
    for at in range(most):
        yield _ellipse(share, at), _ellipse(share, at + 7)


def _ellipse(share: float, shift: int) -> np.ndarray:
    pixels = np.zeros(SIZE[::-1], np.uint8)
    if share:
        centre, axes = (SIZE[0] // 2 + shift, SIZE[1] // 2), (int(share * SIZE[0] / 2), int(share * SIZE[1] / 2))
        cv2.ellipse(pixels, centre, axes, shift, 0, 360, 1, -1)
    return pixels > 0


def milliseconds(pairs: list[Pair], *contenders: Callable[[np.ndarray, np.ndarray], object]) -> list[float]:
    """Return the median processor time of each contender in ms.

    They take turns on each pair; a call that is not timed warms the caches, as decoding would.
    """
    spent: list[list[float]] = [[] for _ in contenders]
    for pair in pairs:
        for contender, times in zip(contenders, spent, strict=True):
            contender(*pair)
            for _ in range(3):
                begin = time.process_time()
                contender(*pair)
                times.append(1000 * (time.process_time() - begin))
    return [statistics.median(times) for times in spent]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=40, help="most frames of each set")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    sets = {path.parent.name: list(clip_pairs(path.parent, args.frames)) for path in clips_folder().glob("*/meta.json")}
    for share in (0.0, 0.1, 0.3, 0.9):
        sets[f"ellipse, {share:g} of the sides"] = list(ellipse_pairs(share, args.frames))
    print("| masks 854 x 480 | set pixels | plain, ms | ours, ms | of this, packing (lower bound), ms | ratio |")
    print("|---|---|---|---|---|---|")
    for name, pairs in sorted(sets.items()):
        worst = max(np.abs(np.subtract(plain_jf(*pair), frame_jf(*pair))).max() for pair in pairs)
        assert worst < 1e-12, f"{name}: values differ by {worst}"
        plain, ours, packing = milliseconds(pairs, plain_jf, frame_jf, lambda a, b: MaskPair(a, b, 8))
        filled = 100 * np.mean([gold_HW.mean() for gold_HW, _ in pairs])
        print(f"| {name} | {filled:.1f} % | {plain:.2f} | {ours:.2f} | {packing:.2f} | {plain / ours:.1f} |")


if __name__ == "__main__":
    main()
