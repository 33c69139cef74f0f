"""Where a trace looks closer: from coarse to fine, each look for something that the frames shown so far leave open.

In this order: the evidence, where the data set knows it; a target that no shown frame shows; the ends of its stay, the
widest gap first; then, at times, the target large, where others look like it or it is small. A query that nothing
answers to looks at what comes nearest, at times: else a look would tell that there is a target.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from configs.schema import EnvConfig
from cot_data.traces.candidates import Scene, Thing
from cot_data.traces.mask_evidence import area, changes
from cot_data.traces.visibility import best_frame, first_frames
from env.frames import sample_indices
from env.tools import frames_by_tool
from env.types import Interval, Select, Task, VideoRef

AROUND = 4  # frames looked at on either side of a frame that the query or the evidence names
OPEN_SHARE = 0.04  # of the video: an end of the stay that is known to within less is not looked for
CLOSE_SHARE = 0.3  # of the tasks whose first observation is enough, looked into all the same
LARGER = 1.5  # how many times as many pixels of the target a look has to show where nothing else is open


@dataclass(frozen=True)
class Look:
    """A select and its reason: "evidence", "hidden", "entry", "exit", "close" or "absent"."""

    select: Select
    reason: str


def plan_looks(scene: Scene, config: EnvConfig, rng: np.random.Generator) -> list[Look]:
    """The looks of a trace, at most `config.max_turns - 1`."""
    task, looks = scene.task, []
    shown = set(first_frames(task, config))
    is_curious = rng.random() < CLOSE_SHARE
    while len(looks) < config.max_turns - 1:
        if task.explore and not looks:
            look = Look(evidence_select(task), "evidence")
        elif scene.target is None:
            look = _nearest_look(scene, shown, config) if is_curious and not looks else None
        else:
            look = _open_look(scene.target, shown, task.video.num_frames)
            if look is None and not looks and is_curious:
                look = _close_look(scene.target, shown, config, task)
        if look is None:
            break
        looks.append(look)
        shown |= frames_shown(task.video, look.select, config)
    return looks


def frames_shown(video: VideoRef, select: Select, config: EnvConfig) -> set[int]:
    """Return the source frames that the enabled tools show for a select."""
    return {frame.frame_idx for _, frames in frames_by_tool(video, select, config) for frame in frames}


def evidence_select(task: Task) -> Select:
    """Where to look: where the query says, if it names frames and the evidence is there, else around the evidence.

    A policy can only learn to look where the query points.
    """
    last = task.video.num_frames - 1
    numbers = [int(digits) for digits in re.findall(r"\d{1,6}", task.expression)]
    start, end = (numbers[0], numbers[-1]) if numbers else (task.evidence[0], task.evidence[-1])
    key_frame = (start + end) // 2
    if key_frame not in task.evidence:
        start, end = task.evidence[0], task.evidence[-1]
        key_frame = task.evidence[len(task.evidence) // 2]
    if start == end or not numbers:
        start, end = start - AROUND, end + AROUND
    return Select(Interval(max(start, 0), min(end, last) + 1), key_frame)


def _open_look(target: Thing, shown: set[int], num_frames: int) -> Look | None:
    """At a target that was not seen yet, else into the widest gap in which it comes or goes."""
    seen = target.seen_in(sorted(shown))
    if not seen:
        return _search(target, shown, num_frames)
    first, last = seen[0], seen[-1]
    ends = [each for each in changes(set(seen), shown) if (each.after == first) or (each.before == last)]
    worth = max(2, round(OPEN_SHARE * num_frames))
    wide = [each for each in ends if each.after - each.before - 1 >= worth]
    if not wide:
        return None
    gap = max(wide, key=lambda each: each.after - each.before)
    # From the end that shows the target, to see it large, up to the other one, which has been seen.
    if gap.is_entry:
        return Look(Select(Interval(gap.before + 1, gap.after + 1), gap.after), "entry")
    return Look(Select(Interval(gap.before, gap.after), gap.before), "exit")


def _search(target: Thing, shown: set[int], num_frames: int) -> Look:
    """Between the shown frames around the frame that has the target best."""
    key_frame = best_frame(target.masks, set(range(num_frames)), target.least)
    start = max((t for t in shown if t < key_frame), default=-1) + 1
    end = min((t for t in shown if t > key_frame), default=num_frames)
    return Look(Select(Interval(start, end), key_frame), "hidden")


def _close_look(target: Thing, shown: set[int], config: EnvConfig, task: Task) -> Look | None:
    """At the frame that shows the target best, if it is larger there than in any frame so far."""
    key_frame = best_frame(target.masks, shown, target.least)
    details = sample_indices(Interval(0, task.video.num_frames), config.detail_frames)
    views = [area(target.masks, t) * config.detail_pixels for t in details]
    views += [area(target.masks, t) * config.strip_pixels for t in shown - set(details)]
    if area(target.masks, key_frame) * config.key_pixels < LARGER * max(views, default=0):
        return None
    return Look(_around(key_frame, task.video.num_frames), "close")


def _nearest_look(scene: Scene, shown: set[int], config: EnvConfig) -> Look | None:
    """At the candidate that comes nearest to what is asked for: the others are in the order of that."""
    seen = [thing for thing in scene.others if thing.seen_in(sorted(shown))]
    if not seen:
        return None
    key_frame = best_frame(seen[0].masks, shown, seen[0].least)
    return Look(_around(key_frame, scene.task.video.num_frames), "absent")


def _around(frame_idx: int, num_frames: int) -> Select:
    start, end = max(frame_idx - AROUND, 0), min(frame_idx + AROUND, num_frames - 1)
    return Select(Interval(start, end + 1), frame_idx)
