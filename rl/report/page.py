"""The report of a whole run as one self-contained HTML page: tables, curves, overlays, provenance. No torch.

Everything here takes data and returns data or text; nothing is fetched, stored text is escaped, no script runs.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from env.frames import FrameCache, sample_indices
from env.types import Answer, Interval, Malformed, Select, Task, Trajectory
from env.viewer.overlay import ImageBook, gold_mask, outline_path, region_iou
from env.viewer.table import decision_word
from rl.evaluation.statistics import paired_difference
from rl.report.charts import Chart, make_chart
from rl.runtime.phases import PhaseCost

NUM_FRAMES = 5  # frames of an overlay strip
MAX_SIDE = 320  # longest side in pixels of an embedded frame
PAGE_TASKS = 20  # first held-out tasks of a replay page, besides those of the overlays
MAX_OVERLAYS = 8
METRICS = {
    "jf": "J&F",
    "j_visible": "J visible",
    "interval_iou": "Interval IoU",
    "key_hit": "Key hit",
    "format": "Format",
    "turns": "Turns",
}
WITH_BLIND = ("jf", "j_visible")
NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Evaluated:
    """One policy on the held-out tasks."""

    name: str  # "cold-started"
    page: str  # file name of its replay page, beside the report
    results: dict[str, Any]  # what rl.evaluate wrote to results.json
    trajectories: list[Trajectory]  # sighted, one per held-out task, in file order


@dataclass(frozen=True)
class RunReport:
    """All that the page shows."""

    title: str
    sentence: str
    stages: list[Evaluated]
    charts: dict[str, list[Chart]]  # heading -> charts
    links: dict[str, str]  # label -> file beside the report
    phases: list[PhaseCost]
    memory_unit: str  # PSS or RSS
    facts: dict[str, str]
    config_text: str


@dataclass(frozen=True)
class Cell:
    """A figure with its 95 % interval and, where there is one, the blind baseline's, all as text."""

    mean: str
    interval: str = ""
    blind: str = ""


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


def render_report(report: RunReport, cache: FrameCache) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["csp_hash"] = _csp_hash
    return environment.get_template("page.html").render(
        report=report,
        columns=METRICS,
        num_frames=NUM_FRAMES,
        with_blind=WITH_BLIND,
        main=main_rows(report.stages),
        changes=change_rows(report.stages),
        groups=group_rows(report.stages),
        overlays=overlays(report.stages, ImageBook(cache)),
        minutes=sum(phase.seconds for phase in report.phases) / 60,
        peak_gb=max((phase.peak_bytes for phase in report.phases), default=0) / 2**30,
    )


def main_rows(stages: Sequence[Evaluated]) -> list[tuple[str, list[Cell]]]:
    """(stage, one cell per measure) over all held-out tasks."""
    return [(stage.name, [_cell(stage, "all", key) for key in METRICS]) for stage in stages]


def change_rows(stages: Sequence[Evaluated]) -> list[tuple[str, list[Cell]]]:
    """(later - earlier, one cell per measure): paired over the tasks that both stages have a figure for."""
    rows = []
    for before, after in pairwise(stages):
        old = {row["task_id"]: row for row in before.results["sighted"]["rows"]}
        new = {row["task_id"]: row for row in after.results["sighted"]["rows"]}
        shared = [task_id for task_id in old if task_id in new]
        cells = []
        for key in METRICS:
            pairs = [(old[at][key], new[at][key]) for at in shared]
            pairs = [(a, b) for a, b in pairs if a is not None and b is not None]
            was, now = [a for a, _ in pairs], [b for _, b in pairs]
            triple = paired_difference(was, now, NUM_RESAMPLES, 0) if pairs else None
            cells.append(_format(triple, key, signed=True))
        rows.append((f"{after.name} \N{MINUS SIGN} {before.name}", cells))
    return rows


def group_rows(stages: Sequence[Evaluated]) -> list[tuple[str, int, list[list[Cell]]]]:
    """(group, tasks, per stage the cells of J&F and J on visible frames): families, then whether exploring pays."""
    if not stages:
        return []
    summary = stages[0].results["sighted"]["summary"]
    groups = sorted((name for name in summary if name != "all"), key=lambda name: (name.startswith("exploring"), name))
    return [
        (name, summary[name]["n"], [[_cell(stage, name, key) for key in WITH_BLIND] for stage in stages])
        for name in groups
    ]


def overlay_tasks(tasks: Sequence[Task]) -> list[Task]:
    """The first task in file order of each family, then of each reason to explore; nothing is picked by eye."""
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
    """What a replay page shows, in file order: the first held-out tasks and those of the overlays."""
    shown = {task.task_id for task in overlay_tasks([item.task for item in trajectories])}
    return [item for at, item in enumerate(trajectories) if at < PAGE_TASKS or item.task.task_id in shown]


def overlays(stages: Sequence[Evaluated], images: ImageBook) -> list[OverlayView]:
    """The same tasks, the same frames, every stage."""
    if not stages:
        return []
    return [
        OverlayView(task, [_strip(stage, task, images, is_first=stage is stages[0]) for stage in stages])
        for task in overlay_tasks([item.task for item in stages[0].trajectories])
    ]


def cold_start_charts(stages: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> list[Chart]:
    """Charts of the cold start; `stages` are (name, records of its metrics.jsonl) in order."""
    found = []
    j_keys = {"first frame": "masks/key_j/mean", "tracked": "masks/tracked_j/mean"}
    for name, records in stages:
        found += [
            make_chart(f"{name}: token loss", records, {"tokens": "loss/tokens"}),
            make_chart(f"{name}: mask losses", records, {"masks": "loss/masks", "pull to captions": "loss/align"}),
            make_chart(f"{name}: J of training clips", records, j_keys),
        ]
    return [chart for chart in found if chart is not None]


LABELS = {"all tasks": "", "event between frames": "_brief_event", "fine mark": "_fine_mark", "neither": "_plain"}
HELD_OUT = ("all", "exploring pays", "exploring does not pay")


def grpo_charts(
    records: Sequence[Mapping[str, Any]], rewards: Sequence[str], before: Evaluated, after: Evaluated
) -> list[Chart]:
    """Charts of GRPO; `rewards` names the parts of the reward. The held-out curve begins with the evaluation before and
    ends with the one after: all three see the same tasks."""
    first, last = records[0]["step"], records[-1]["step"]
    held_out = [_held_out_record(before, first - 1), *records, _held_out_record(after, last)]
    stops = ("answered", "max_turns", "malformed", "too_long")
    found = [
        make_chart("reward", records, {"total": "reward/total/mean", "spread in a group": "reward/group_std/mean"}),
        make_chart("parts of the reward", records, {name: f"reward/{name}/mean" for name in rewards}),
        make_chart("stop reasons (share)", records, {name: f"stop/{name}/share" for name in stops}),
        make_chart("turns", records, {name: f"rollout/turns{key}/mean" for name, key in LABELS.items()}),
        make_chart(
            "share that looks closer", records, {name: f"rollout/tool_use{key}/share" for name, key in LABELS.items()}
        ),
        make_chart("held-out J&F", held_out, {name: _held_out_key(name) for name in HELD_OUT}),
        make_chart("entropy", records, {"entropy": "policy/entropy"}),
        make_chart(
            "sampler against learner, |log-prob difference|",
            records,
            {"mean": "policy/mismatch/mean", "max": "rollout/mismatch/max"},
            log_scale=True,
        ),
        make_chart("KL to the start", records, {"KL": "policy/kl/mean"}),
        make_chart(
            "shares",
            records,
            {
                "groups of equal rewards": "reward/dead_groups/share",
                "clipped tokens": "policy/clipped/share",
                "masks in the gradient": "grad/masks/share",
                "calibration in the policy gradient": "grad/calibration/share",
            },
        ),
        make_chart("mask loss", records, {"masks": "loss/masks"}),
    ]
    return [chart for chart in found if chart is not None]


def _held_out_key(group: str) -> str:
    return f"eval/jf/{group.replace(' ', '_')}"


def _held_out_record(stage: Evaluated, step: int) -> dict[str, Any]:
    """As `rl.evaluation.validation` would have logged it after `step`."""
    summary = stage.results["sighted"]["summary"]
    means = {name: summary[name]["jf"] for name in HELD_OUT if name in summary}
    return {"step": step} | {_held_out_key(name): triple[0] for name, triple in means.items() if triple}


def _cell(stage: Evaluated, group: str, key: str) -> Cell:
    sighted = stage.results["sighted"]["summary"].get(group, {}).get(key)
    blind = stage.results.get("blind", {}).get("summary", {}).get(group, {}).get(key)
    shut = _format(blind, key)
    cell = _format(sighted, key)
    return Cell(cell.mean, cell.interval, f"{shut.mean} {shut.interval}".strip()) if key in WITH_BLIND else cell


def _format(triple: Sequence[float] | None, key: str, signed: bool = False) -> Cell:
    """Percent, but turns; `signed` for differences."""
    if triple is None:
        return Cell("-")
    scale, digits = (1, 2) if key == "turns" else (100, 1)
    mean, low, high = (f"{scale * value:{'+' if signed else ''}.{digits}f}" for value in triple)
    return Cell(mean, f"[{low}, {high}]")


def _strip(stage: Evaluated, task: Task, images: ImageBook, is_first: bool) -> StripView:
    """One stage on one task. The first stage is untrained: frames are left out where it predicted nothing."""
    shown = replay_choice(stage.trajectories)
    at = next((at for at, item in enumerate(shown) if item.task.task_id == task.task_id), None)
    if at is None:
        return StripView(stage.name, "", ["not evaluated"], "", [])
    row = next((row for row in stage.results["sighted"]["rows"] if row["task_id"] == task.task_id), {})
    frames = () if is_first and not shown[at].masks else sample_indices(Interval(0, task.video.num_frames), NUM_FRAMES)
    figures = [f"{METRICS[key]} {100 * row[key]:.0f}" for key in WITH_BLIND if row.get(key) is not None]
    return StripView(
        stage.name,
        f"{stage.page}#{at}",
        [_decision(turn.decision) for turn in shown[at].turns] or [f"no turn: {shown[at].stop_reason}"],
        ", ".join(figures),
        [_frame(shown[at], frame_idx, images) for frame_idx in frames],
    )


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


def facts_of(provenance: Mapping[str, Any], seed: int) -> dict[str, str]:
    """Provenance as rows of text."""
    facts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in provenance.items()}
    packages = provenance.get("packages", {})
    facts["packages"] = ", ".join(f"{name} {version}" for name, version in packages.items())
    return facts | {"seed": str(seed)}


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(str(text).encode("utf-8")).digest()).decode("ascii")
