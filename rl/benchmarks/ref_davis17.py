"""Ref-DAVIS17 as its authors score it (P1): one annotator's objects together, matched as in unsupervised DAVIS.

Expression 4 * o + a is annotator a's sentence for object o. Follows davis2017's unsupervised evaluation of the maps
that `post_process_davis.py` of ReferFormer and VideoLISA writes; its argmax of equal scores keeps the first object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from env.rle import mask_or_empty
from env.types import Task, names_in
from rewards.jf import frame_jf
from rewards.video_metrics import best_matching
from rl.benchmarks.expression_scores import Prediction

NUM_ANNOTATORS = 4


def annotator_metrics(tasks: Sequence[Task], predictions: Mapping[str, Prediction]) -> dict[str, Any] | None:
    """Return J, F and J&F: means over the objects of all videos, then over the annotators; `predictions` by task id.

    None where a video lacks sentences of an annotator, as in a part of the benchmark.
    """
    videos: dict[str, dict[int, Task]] = {}
    for task in tasks:
        video, expression = names_in(task.task_id)
        if not expression.isdecimal():
            return None
        videos.setdefault(video, {})[int(expression)] = task
    for numbers in videos.values():
        if sorted(numbers) != list(range(len(numbers))) or len(numbers) % NUM_ANNOTATORS:
            return None
    by_annotator = []
    for annotator in range(NUM_ANNOTATORS):
        objects: list[tuple[float, float]] = []
        for numbers in videos.values():
            chosen = [numbers[at] for at in range(annotator, len(numbers), NUM_ANNOTATORS)]
            objects += matched_objects(chosen, [predictions[task.task_id] for task in chosen])
        by_annotator.append(np.mean(objects, axis=0))
    j, f = (float(value) for value in np.mean(by_annotator, axis=0))
    return {"n": len(tasks), "j": j, "f": f, "jf": (j + f) / 2}


def matched_objects(tasks: Sequence[Task], predictions: Sequence[Prediction]) -> list[tuple[float, float]]:
    """Return (J, F) over all frames of each gold object of one video, with the prediction that it is matched with."""
    video = tasks[0].video
    jf_TNM2 = np.zeros((video.num_frames, len(tasks), len(tasks), 2))
    for t in range(video.num_frames):
        golds = [mask_or_empty(task.gold[t], video.height, video.width) for task in tasks]
        masks = _first_come([mask_or_empty(each.masks[t], video.height, video.width) for each in predictions])
        for n, gold_HW in enumerate(golds):
            jf_TNM2[t, n] = [frame_jf(gold_HW, mask_HW) for mask_HW in masks]
    jf_NM2 = jf_TNM2.mean(0)
    columns = best_matching(jf_NM2.mean(2))
    return [(float(jf_NM2[n, m, 0]), float(jf_NM2[n, m, 1])) for n, m in enumerate(columns)]


def _first_come(masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return masks without overlap: a pixel belongs to the first that sets it."""
    taken_HW = np.zeros_like(masks[0])
    kept = []
    for mask_HW in masks:
        kept.append(mask_HW & ~taken_HW)
        taken_HW |= mask_HW
    return kept
