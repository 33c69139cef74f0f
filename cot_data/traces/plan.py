"""Plan the zooms of a trace, from coarse to fine: each one for something that the frames shown so far leave open.

The reasons, in this order: the evidence, where the data set has it; a target that no shown frame shows; the first and
the last frame of the target, the wider gap first; then, with some probability, a larger view of the target. Where
nothing matches the query, a trace zooms with the same probability on the candidate most similar to it; otherwise the
zoom itself would reveal that there is a target.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from configs.schema import EnvConfig
from cot_data.traces.candidates import Candidate, Scene
from cot_data.traces.mask_evidence import area, changes
from cot_data.traces.visibility import best_frame, first_frames
from env.spacing import detail_frames
from env.tools import frames_by_tool
from env.types import Interval, Select, Task, VideoRef

MARGIN = 4  # frames zoomed in on before and after a frame that the query or the evidence names
MAX_OPEN_SHARE = 0.04  # of the video: a first or last frame known to within this many frames is not searched for
EXTRA_ZOOM_PROBABILITY = 0.3  # of a zoom where the first observation is enough
MIN_ENLARGEMENT = 1.5  # such a zoom must show the target with this many times the pixels seen so far


@dataclass(frozen=True)
class PlannedZoom:
    """A select and its reason: "evidence", "hidden", "entry", "exit", "close" or "absent"."""

    select: Select
    reason: str


def plan_zooms(scene: Scene, config: EnvConfig, rng: np.random.Generator) -> list[PlannedZoom]:
    """Return the zooms of a trace in order.

    Args:
        scene: the task and its candidates.
        config: how many frames each observation shows; `max_turns` limits the zooms to one fewer.
        rng: takes one number, which decides on an extra zoom.

    Returns:
        At most `config.max_turns - 1` zooms.
    """
    task, zooms = scene.task, []
    shown = set(first_frames(task, config))
    has_extra_zoom = rng.random() < EXTRA_ZOOM_PROBABILITY
    while len(zooms) < config.max_turns - 1:
        if task.explore and task.evidence and not zooms:
            zoom = PlannedZoom(evidence_select(task), "evidence")
        elif scene.target is None:
            zoom = _zoom_on_similar(scene, shown) if has_extra_zoom and not zooms else None
        else:
            zoom = _necessary_zoom(scene.target, shown, task.video.num_frames)
            if zoom is None and not zooms and has_extra_zoom:
                zoom = _larger_view(scene.target, shown, config, task)
        if zoom is None:
            break
        zooms.append(zoom)
        shown |= frames_shown(task.video, zoom.select, config)
    return zooms


def frames_shown(video: VideoRef, select: Select, config: EnvConfig) -> set[int]:
    """Return the indices of the source frames that the enabled tools show for a select."""
    return {frame.frame_idx for _, frames in frames_by_tool(video, select, config) for frame in frames}


def evidence_select(task: Task) -> Select:
    """Return a select of the frames that the query names, if the evidence is there, else of those around the evidence.

    A policy can only learn to zoom where the query points.
    """
    last = task.video.num_frames - 1
    numbers = [int(digits) for digits in re.findall(r"\d{1,6}", task.expression)]
    if numbers and numbers[0] > numbers[-1]:
        numbers = []  # they name no interval
    start, end = (numbers[0], numbers[-1]) if numbers else (task.evidence[0], task.evidence[-1])
    key_frame = (start + end) // 2
    if key_frame not in task.evidence:
        start, end = task.evidence[0], task.evidence[-1]
        key_frame = task.evidence[len(task.evidence) // 2]
    if start == end or not numbers:
        start, end = start - MARGIN, end + MARGIN
    return Select(Interval(max(start, 0), min(end, last) + 1), key_frame)


def _necessary_zoom(target: Candidate, shown: set[int], num_frames: int) -> PlannedZoom | None:
    """Search a target that was not seen yet, else the widest gap in which it comes into view or goes out of it."""
    seen = target.visible_in(sorted(shown))
    if not seen:
        return _search(target, shown, num_frames)
    first, last = seen[0], seen[-1]
    ends = [each for each in changes(set(seen), shown) if (each.after == first) or (each.before == last)]
    min_gap = max(2, round(MAX_OPEN_SHARE * num_frames))
    wide = [each for each in ends if each.after - each.before - 1 >= min_gap]
    if not wide:
        return None
    gap = max(wide, key=lambda each: each.after - each.before)
    # From the end that shows the target, so that it is seen large, up to the other end, which was seen already.
    if gap.is_entry:
        return PlannedZoom(Select(Interval(gap.before + 1, gap.after + 1), gap.after), "entry")
    return PlannedZoom(Select(Interval(gap.before, gap.after), gap.before), "exit")


def _search(target: Candidate, shown: set[int], num_frames: int) -> PlannedZoom:
    """Zoom between the two shown frames around the frame that shows the target best."""
    key_frame = best_frame(target.masks, set(range(num_frames)), target.min_area)
    start = max((t for t in shown if t < key_frame), default=-1) + 1
    end = min((t for t in shown if t > key_frame), default=num_frames)
    return PlannedZoom(Select(Interval(start, end), key_frame), "hidden")


def _larger_view(target: Candidate, shown: set[int], config: EnvConfig, task: Task) -> PlannedZoom | None:
    """Zoom on the frame that shows the target best, if it appears larger there than in any frame so far."""
    key_frame = best_frame(target.masks, shown, target.min_area)
    details = detail_frames(task.video.num_frames, config)
    sizes = [area(target.masks, t) * config.detail_pixels for t in details]
    sizes += [area(target.masks, t) * config.strip_pixels for t in shown - set(details)]
    if area(target.masks, key_frame) * config.key_pixels < MIN_ENLARGEMENT * max(sizes, default=0):
        return None
    return PlannedZoom(_select_around(key_frame, task.video.num_frames), "close")


def _zoom_on_similar(scene: Scene, shown: set[int]) -> PlannedZoom | None:
    """Zoom on the visible candidate most similar to the query; `others` are sorted by that."""
    seen = [candidate for candidate in scene.others if candidate.visible_in(sorted(shown))]
    if not seen:
        return None
    key_frame = best_frame(seen[0].masks, shown, seen[0].min_area)
    return PlannedZoom(_select_around(key_frame, scene.task.video.num_frames), "absent")


def _select_around(frame_idx: int, num_frames: int) -> Select:
    start, end = max(frame_idx - MARGIN, 0), min(frame_idx + MARGIN, num_frames - 1)
    return Select(Interval(start, end + 1), frame_idx)
