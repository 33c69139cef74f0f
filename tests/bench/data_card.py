"""Figures and pictures of Moving Shapes: `python -m tests.bench.data_card --root DIR --picture docs/moving_shapes.png`.

Prints what the tasks are made of and what policies score that do not look: the floor under every other figure.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from cot_data.datasets.mevis import load_mevis
from cot_data.moving_shapes.labels import LabelledVideo, load_objects
from env.frames import FrameCache
from env.rle import decode_tracklet
from env.types import RLE, Task
from rewards.jf import tracklet_jf

Masks = tuple[RLE | None, ...]
Guess = Callable[[Task, LabelledVideo, np.random.Generator], Masks]


def nothing(task: Task, labelled: LabelledVideo, rng: np.random.Generator) -> Masks:
    return (None,) * task.video.num_frames


def random_shape(task: Task, labelled: LabelledVideo, rng: np.random.Generator) -> Masks:
    return labelled.objects[int(rng.integers(len(labelled.objects)))].masks


def middle_shape(task: Task, labelled: LabelledVideo, rng: np.random.Generator) -> Masks:
    """A shape that the middle frame shows."""
    there = [each for each in labelled.objects if each.masks[task.video.num_frames // 2] is not None]
    return there[int(rng.integers(len(there)))].masks if there else nothing(task, labelled, rng)


def fitting_word(task: Task, labelled: LabelledVideo, rng: np.random.Generator) -> Masks:
    """A shape whose name shares most words with the sentence: language without time."""
    words = set(task.expression.split())
    scores = [len(words & set(each.caption.split())) for each in labelled.objects]
    best = [each for each, score in zip(labelled.objects, scores, strict=True) if score == max(scores)]
    return best[int(rng.integers(len(best)))].masks


GUESSES: dict[str, Guess] = {
    "nothing": nothing,
    "a random shape, exact masks": random_shape,
    "a shape of the middle frame, exact masks": middle_shape,
    "the shape that shares most words, exact masks": fitting_word,
}


def scores(tasks: list[Task], videos: dict[str, LabelledVideo], guess: Guess) -> dict[str, tuple[float, float]]:
    """(J&F over all frames, J over frames with the target) in percent, by family and over all."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[tuple[float, float]]] = {}
    for task in tasks:
        size = (task.video.height, task.video.width)
        gold_THW = decode_tracklet(task.gold, size)
        j_T, f_T = tracklet_jf(gold_THW, decode_tracklet(guess(task, videos[task.video.path], rng), size))
        visible_T = gold_THW.any((1, 2))
        row = (50 * (j_T.mean() + f_T.mean()), 100 * j_T[visible_T].mean() if visible_T.any() else np.nan)
        for name in ("all", task.explore or task.family):
            rows.setdefault(name, []).append(row)
    known = {name: each for name, each in rows.items() if not np.isnan([b for _, b in each]).all()}
    return {name: (mean([a for a, _ in each]), mean([b for _, b in each])) for name, each in known.items()}


def mean(values: list[float]) -> float:
    """Of the values that are there."""
    return float(np.nanmean(values))


def describe(tasks: list[Task]) -> None:
    count = len(tasks)
    print(f"{count} tasks in {len({task.video for task in tasks})} videos")
    for title, values in (
        ("family", [t.family for t in tasks]),
        ("exploring pays", [t.explore or "no" for t in tasks]),
    ):
        print(f"{title}: " + ", ".join(f"{name} {100 * n / count:.0f} %" for name, n in Counter(values).most_common()))
    spans, middles = [], []
    for task in tasks:
        seen = [at for at, rle in enumerate(task.gold) if rle]
        if seen:
            spans.append((seen[-1] + 1 - seen[0]) / task.video.num_frames)
            middles.append(task.gold[task.video.num_frames // 2] is not None)
    print(f"the whole video as interval: IoU {np.mean(spans):.2f}")
    print(f"the middle frame shows the target: {np.mean(middles):.2f}")


def draw(tasks: list[Task], path: Path, columns: int = 8) -> None:
    """One row per kind of task: frames over the whole video, the target outlined; the evidence last."""
    kinds = {task.explore or task.family: task for task in reversed(tasks)}
    figure, axes = plt.subplots(len(kinds), columns, figsize=(1.25 * columns, 1.6 * len(kinds)), layout="constrained")
    frames = FrameCache()
    for row, (kind, task) in enumerate(sorted(kinds.items())):
        picked = [int(at) for at in np.linspace(0, task.video.num_frames - 1, columns - bool(task.evidence))]
        picked += [task.evidence[len(task.evidence) // 2]] if task.evidence else []
        for axis, at in zip(axes[row], picked, strict=True):
            axis.imshow(frames.full(task.video, at), interpolation="nearest")
            rle = task.gold[at]
            if rle is not None:
                mask_HW = decode_tracklet([rle], (task.video.height, task.video.width))[0]
                axis.contour(mask_HW, levels=[0.5], colors="white", linewidths=1.2)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_xlabel(str(at), fontsize=7, labelpad=1)
        title = f'{kind}: "{task.expression}"'
        text = axes[row][0].annotate(title, (0, 1.07), xycoords="axes fraction", fontsize=8)
        text.set_in_layout(False)  # it runs over its neighbours
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder that cot_data.moving_shapes wrote")
    parser.add_argument("--picture", type=Path, help="PNG to write")
    args = parser.parse_args()
    tasks = list(load_mevis(args.root))
    videos = {each.video.path: each for each in load_objects(args.root)}
    describe(tasks)
    table = {name: scores(tasks, videos, guess) for name, guess in GUESSES.items()}
    kinds = list(table["nothing"])
    print("| J&F / J visible | " + " | ".join(kinds) + " |\n|---" * 1 + "|---" * len(kinds) + "|")
    for name, row in table.items():
        print(f"| {name} | " + " | ".join(f"{row[kind][0]:.0f} / {row[kind][1]:.0f}" for kind in kinds) + " |")
    if args.picture:
        draw(tasks, args.picture)


if __name__ == "__main__":
    main()
