"""Trajectories as one self-contained HTML page. It fetches nothing, escapes stored text and pins its script by hash."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from env.errors import DataError
from env.files import make_folder, write_text
from env.frames import FrameCache
from env.rle import is_empty
from env.tools import TOOLS
from env.types import FIRST_ROLES, RLE, FrameRef, StopReason, Task, Trajectory, Turn
from env.viewer.overlay import ImageBook, gold_mask, outline_path, region_iou, visible_runs
from env.viewer.table import decision_word, frames_shown, region_text, summary

THINK = re.compile(r"<think>(.*?)(?:</think>|$)", re.DOTALL)
SHOWN_SIDE = 288  # longest side in pixels of an embedded frame as the policy saw it
MASK_SIDE = 480  # longest side in pixels of an embedded frame under masks
FINAL_FRAMES = 6  # frames of the strip of final masks
SINGLE_PASS_FRAMES = 12  # the same for a trajectory without turns, whose masks are all that there is to see
NUM_COLOURS = 8  # classes role0 to role7 of page.html
LOWEST_POWER = -7  # differences of 1e-7 and below are blank in the heat strip, 1 and above are full


@dataclass(frozen=True)
class ShownFrame:
    """A frame as the policy saw it. `image` is a position in the page's images, None if it cannot be read."""

    ref: FrameRef
    image: int | None
    colour: str  # CSS class of its role
    region: str  # "part 10,20 to 300,400" in source pixels; empty where the whole frame is shown


@dataclass(frozen=True)
class MaskView:
    """A frame with its predicted and gold outlines as SVG paths, each in the pixels of its own (height, width)."""

    frame_idx: int
    image: int | None
    width: int
    height: int
    predicted: tuple[str, int, int]
    gold: tuple[str, int, int]
    iou: float | None


@dataclass(frozen=True)
class TokenView:
    """One sampled token. `shade` is 0 to 1 on a log scale of |difference|. Without a learner `difference` is None."""

    token_id: int
    sampler: float
    learner: float | None
    difference: float | None  # learner - sampler
    probability: float
    shade: float


@dataclass(frozen=True)
class TurnView:
    """One turn as the page shows it."""

    turn: Turn
    frames: list[ShownFrame]
    frames_line: str
    thinking: str
    written: str  # text of the policy outside its thinking
    decision: str
    key: MaskView | None
    tokens: list[TokenView]
    max_difference: float | None
    mean_difference: float | None


@dataclass(frozen=True)
class RewardRow:
    """One line of the table of rewards. `weight` is None if it is not known."""

    name: str
    value: float | None
    weight: float | None
    contribution: float | None


@dataclass(frozen=True)
class TrajectoryView:
    """One trajectory as the page shows it."""

    trajectory: Trajectory
    turns: list[TurnView]
    gold_runs: list[tuple[int, int]]
    predicted_runs: list[tuple[int, int]]
    axis: list[int]
    finals: list[MaskView]
    rewards: list[RewardRow]
    has_turns: bool  # whether its model family acts in turns
    legend: list[tuple[str, str]]  # CSS class and name of each role of its frames


def render_page(
    trajectories: Sequence[Trajectory], title: str, weights: Mapping[str, float], cache: FrameCache, note: str = ""
) -> str:
    """Return one HTML page with all trajectories.

    Args:
        trajectories: What is shown, in this order.
        title: Title of the page.
        weights: Reward name to weight; empty if the weights are not known.
        cache: Reads the frames.
        note: A remark beside the summary.
    """
    images = ImageBook(cache)
    views = [_trajectory_view(trajectory, weights, images) for trajectory in trajectories]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["csp_hash"] = _csp_hash
    template = environment.get_template("page.html")
    return template.render(
        title=title,
        note=note,
        summary=summary(trajectories),
        views=views,
        uris=images.uris,
        stops=list(StopReason),
        has_weights=bool(weights),
    )


def write_page(path: Path, html: str) -> None:
    """Write a page as UTF-8. Lone surrogates, which a model can write and JSON can hold, become `?`."""
    make_folder(path.parent)
    write_text(path, html.encode("utf-8", "replace").decode("utf-8"))


def _csp_hash(text: str) -> str:
    digest = hashlib.sha256(str(text).encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")


def role_colours(trajectory: Trajectory) -> dict[str, str]:
    """Return the CSS class of every role: those of the first observation, of the tools, then of unknown tools."""
    known = [*FIRST_ROLES, *(tool.role for tool in TOOLS.values())]
    unknown = {frame.role for turn in trajectory.turns for frame in turn.observation.frames} - {*known}
    return {role: f"role{at % NUM_COLOURS}" for at, role in enumerate([*known, *sorted(unknown)])}


def _trajectory_view(trajectory: Trajectory, weights: Mapping[str, float], images: ImageBook) -> TrajectoryView:
    """Return what the page shows of a trajectory. DataError, naming it, where a mask cannot be decoded."""
    try:
        return _view(trajectory, weights, images)
    except DataError as error:
        raise DataError(f"trajectory {trajectory.trajectory_id}, {error.where}", error.problem) from error


def _view(trajectory: Trajectory, weights: Mapping[str, float], images: ImageBook) -> TrajectoryView:
    task = trajectory.task
    predicted = [trajectory.masks.get(frame_idx) for frame_idx in range(task.video.num_frames)]
    colours = role_colours(trajectory)
    seen = {frame.role for turn in trajectory.turns for frame in turn.observation.frames}
    return TrajectoryView(
        trajectory=trajectory,
        turns=[_turn_view(turn, task, images, colours) for turn in trajectory.turns],
        gold_runs=visible_runs(list(task.gold)),
        predicted_runs=visible_runs(predicted),
        axis=_axis(task.video.num_frames),
        finals=[_mask_view(task, idx, trajectory.masks.get(idx), images) for idx in _final_frames(trajectory)],
        rewards=_reward_rows(trajectory, weights),
        has_turns=trajectory.stop_reason is not StopReason.SINGLE_PASS,
        legend=[(colour, role) for role, colour in colours.items() if role in seen],
    )


def _turn_view(turn: Turn, task: Task, images: ImageBook, colours: Mapping[str, str]) -> TurnView:
    text = turn.action.text
    frames = []
    for ref in turn.observation.frames:
        image = images.add(task.video, ref.frame_idx, ref.width, ref.height, SHOWN_SIDE, ref.region)
        frames.append(ShownFrame(ref, image, colours[ref.role], region_text(ref)))
    key = None
    if turn.key_mask_frame is not None:
        key = _mask_view(task, turn.key_mask_frame, turn.key_mask, images)
    tokens = _token_views(turn)
    differences = [abs(token.difference) for token in tokens if token.difference is not None]
    return TurnView(
        turn=turn,
        frames=frames,
        frames_line=frames_shown(turn.observation),
        thinking="\n\n".join(part.strip() for part in THINK.findall(text)),
        written=THINK.sub("", text).strip(),
        decision=decision_word(turn.decision),
        key=key,
        tokens=tokens,
        max_difference=max(differences) if differences else None,
        mean_difference=fmean(differences) if differences else None,
    )


def _mask_view(task: Task, frame_idx: int, predicted: RLE | None, images: ImageBook) -> MaskView:
    gold = gold_mask(task, frame_idx)
    video = task.video
    return MaskView(
        frame_idx=frame_idx,
        image=images.add(video, frame_idx, video.width, video.height, MASK_SIDE),
        width=video.width,
        height=video.height,
        predicted=_outline(predicted),
        gold=_outline(gold),
        iou=region_iou(predicted, gold) if task.gold and predicted is not None else None,
    )


def _outline(rle: RLE | None) -> tuple[str, int, int]:
    height, width = rle["size"] if rle is not None else (1, 1)
    return outline_path(rle), height, width


def _token_views(turn: Turn) -> list[TokenView]:
    action = turn.action
    has_learner = len(turn.old_logprobs) == len(action.logprobs)
    learners = turn.old_logprobs if has_learner else [None] * len(action.logprobs)
    views = []
    # Recorded text has ids and no log-probs: its strip stays empty.
    for token_id, sampler, learner in zip(action.token_ids, action.logprobs, learners, strict=False):
        difference = None if learner is None else learner - sampler
        shade = 0.0 if difference is None else _shade(difference)
        views.append(TokenView(token_id, sampler, learner, difference, math.exp(min(0.0, sampler)), shade))
    return views


def _shade(difference: float) -> float:
    if not math.isfinite(difference):
        return 1.0
    if difference == 0:
        return 0.0
    return min(1.0, max(0.0, 1 - math.log10(abs(difference)) / LOWEST_POWER))


def _final_frames(trajectory: Trajectory) -> list[int]:
    """Return evenly spaced frames among those with a predicted mask; without any, among those with a gold mask."""
    indices = sorted(trajectory.masks)
    if not indices:
        indices = [idx for idx, rle in enumerate(trajectory.task.gold) if not is_empty(rle)]
    most = SINGLE_PASS_FRAMES if trajectory.stop_reason is StopReason.SINGLE_PASS else FINAL_FRAMES
    if len(indices) <= most:
        return indices
    return [indices[round(i * (len(indices) - 1) / (most - 1))] for i in range(most)]


def _reward_rows(trajectory: Trajectory, weights: Mapping[str, float]) -> list[RewardRow]:
    rows = []
    for name, value in (trajectory.scores.breakdown if trajectory.scores else {}).items():
        weight = weights.get(name)
        contribution = None if weight is None or value is None else weight * value
        rows.append(RewardRow(name, value, weight, contribution))
    return rows


def _axis(num_frames: int) -> list[int]:
    """Return about eight round frame indices for the time axis."""
    raw = max(1.0, num_frames / 8)
    power = 10 ** math.floor(math.log10(raw))
    spacing = next(int(factor * power) for factor in (1, 2, 5, 10) if factor * power >= raw)
    return list(range(0, num_frames, spacing))
