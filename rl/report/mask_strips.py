"""Strips of frames with masks: the same tasks and frames for every policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from env.frames import sample_indices
from env.types import Answer, Interval, Malformed, Select, StopReason, Task, Trajectory
from env.viewer.overlay import ImageBook, gold_mask, outline_path, region_iou
from env.viewer.table import decision_word
from rl.report.metric_rows import METRICS, WITH_BLIND, Evaluated

NUM_FRAMES = 5  # of a strip
MAX_SIDE = 320  # longest side in pixels of an embedded frame
PAGE_TASKS = 20  # first held-out tasks of a replay page, besides those of the strips
MAX_OVERLAYS = 8


@dataclass(frozen=True)
class FrameView:
    frame_idx: int
    image: str  # data URI, empty where the frame cannot be shown
    predicted: str  # SVG path data
    gold: str
    note: str


@dataclass(frozen=True)
class StripView:
    stage: str
    link: str
    decisions: list[str]
    figures: str
    frames: list[FrameView]


@dataclass(frozen=True)
class OverlayView:
    task: Task
    strips: list[StripView]


def overlay_tasks(tasks: Sequence[Task]) -> list[Task]:
    """Return the first task in file order of each family, then of each reason to explore; none is picked by eye."""
    chosen: dict[str, Task] = {}
    for label in ("family", "explore"):
        seen = set()
        for task in tasks:
            value = task.family if label == "family" else task.explore
            if value and value not in seen:
                seen.add(value)
                chosen.setdefault(task.task_id, task)
    return list(chosen.values())[:MAX_OVERLAYS]


def replay_choice(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Return the trajectories of a replay page, in file order: the first held-out tasks and those of the overlays."""
    shown = {task.task_id for task in overlay_tasks([item.task for item in trajectories])}
    return [item for at, item in enumerate(trajectories) if at < PAGE_TASKS or item.task.task_id in shown]


def overlays(stages: Sequence[Evaluated], images: ImageBook) -> list[OverlayView]:
    """Return one view per task of `overlay_tasks`, with a strip of the same frames for every stage."""
    if not stages:
        return []
    return [
        OverlayView(task, [_strip(stage, task, images, is_first=stage is stages[0]) for stage in stages])
        for task in overlay_tasks([item.task for item in stages[0].trajectories])
    ]


def _strip(stage: Evaluated, task: Task, images: ImageBook, is_first: bool) -> StripView:
    """Return the strip of one stage on one task.

    Args:
        stage: The policy and its trajectories.
        task: One of `overlay_tasks`.
        images: Collects the page's images.
        is_first: Leaves the frames out where nothing was predicted, as the untrained policy often does.

    Returns:
        The strip; without frames where the stage has no trajectory of the task.
    """
    shown = replay_choice(stage.trajectories)
    at = next((at for at, item in enumerate(shown) if item.task.task_id == task.task_id), None)
    if at is None:
        return StripView(stage.name, "", ["not evaluated"], "", [])
    if shown[at].has_failed:
        return StripView(stage.name, f"{stage.page}#{at}", [f"failed: {shown[at].error}"], "", [])
    row = next((row for row in stage.results["sighted"]["rows"] if row["task_id"] == task.task_id), {})
    frames = () if is_first and not shown[at].masks else sample_indices(Interval(0, task.video.num_frames), NUM_FRAMES)
    figures = [f"{METRICS[key]} {100 * row[key]:.0f}" for key in WITH_BLIND if row.get(key) is not None]
    return StripView(
        stage.name,
        f"{stage.page}#{at}",
        _decisions(shown[at]),
        ", ".join(figures),
        [_frame(shown[at], frame_idx, images) for frame_idx in frames],
    )


def _decisions(trajectory: Trajectory) -> list[str]:
    if trajectory.stop_reason is StopReason.SINGLE_PASS:
        return ["segmented in a single pass"]
    return [_decision(turn.decision) for turn in trajectory.turns] or [f"no turn: {trajectory.stop_reason}"]


def _frame(trajectory: Trajectory, frame_idx: int, images: ImageBook) -> FrameView:
    task = trajectory.task
    predicted, gold = trajectory.masks.get(frame_idx), gold_mask(task, frame_idx)
    place = images.add(task.video, frame_idx, task.video.width, task.video.height, MAX_SIDE)
    iou = region_iou(predicted, gold) if task.gold and (predicted or gold) else None
    note = "both empty" if iou is None else f"J {100 * iou:.0f}"
    image = "" if place is None else images.uris[place]
    return FrameView(frame_idx, image, outline_path(predicted), outline_path(gold), note if task.gold else "no gold")


def _decision(decision: Select | Answer | Malformed) -> str:
    if isinstance(decision, Malformed):
        return decision_word(decision)
    interval = decision.interval
    return f"{decision_word(decision)} [{interval.start}, {interval.end}), key frame {decision.key_frame}"
