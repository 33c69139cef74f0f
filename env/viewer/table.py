"""Stored trajectories as a table in the terminal, and the filter that selects them. Stored text is not trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.console import Console
from rich.table import Table
from rich.text import Text

from configs.plain_text import plain
from env.types import Answer, Decision, FrameRef, Malformed, Observation, StopReason, Trajectory, Turn

NONE = "-"
STOP_STYLE = {
    StopReason.ANSWERED: "green",
    StopReason.MAX_TURNS: "yellow",
    StopReason.MALFORMED: "red",
    StopReason.TOO_LONG: "magenta",
    StopReason.SINGLE_PASS: "green",
    StopReason.ERROR: "bold red",
}


@dataclass(frozen=True)
class Filter:
    """Selection of trajectories; every criterion that is set must hold."""

    min_reward: float | None = None
    max_reward: float | None = None
    stop: StopReason | None = None
    query: str = ""  # part of the expression, any case
    trajectory_id: str = ""  # part of the trajectory id
    steps: tuple[int | None, int | None] = (None, None)  # half-open [first, last) of optimizer steps

    def __call__(self, trajectory: Trajectory) -> bool:
        first, last = self.steps
        reward = trajectory.scores.total if trajectory.scores else None
        bounded = self.min_reward is not None or self.max_reward is not None
        return (
            (not bounded or (reward is not None and self._within(reward)))
            and (self.stop is None or trajectory.stop_reason == self.stop)
            and self.query.lower() in trajectory.task.expression.lower()
            and self.trajectory_id in trajectory.trajectory_id
            and (first is None or trajectory.step >= first)
            and (last is None or trajectory.step < last)
        )

    def _within(self, reward: float) -> bool:
        low = self.min_reward is None or reward >= self.min_reward
        return low and (self.max_reward is None or reward <= self.max_reward)


def decision_word(decision: Decision) -> str:
    """Return "answer", "select" with the arguments of its tools, or "malformed" with the reason."""
    if isinstance(decision, Malformed):
        return f"malformed: {decision.reason}"
    if isinstance(decision, Answer):
        return "answer"
    arguments = [f"{name} {','.join(map(str, numbers))}" for name, numbers in decision.arguments.items()]
    return ", ".join(["select", *arguments])


def region_text(frame: FrameRef) -> str:
    """Return the part of a frame that is shown, in source pixels, such as `part 10,20 to 300,400`; "" for all of it."""
    if frame.region is None:
        return ""
    left, top, right, bottom = frame.region
    return f"part {left},{top} to {right},{bottom}"


def frames_shown(observation: Observation) -> str:
    """Return the frames of one turn by role: `strip 10 (0..45), detail 5 (0..45)`."""
    roles: dict[str, list[FrameRef]] = {}
    for frame in observation.frames:
        roles.setdefault(frame.role, []).append(frame)
    return ", ".join(f"{role} {_indices(frames)}" for role, frames in roles.items())


def _indices(frames: Sequence[FrameRef]) -> str:
    if len(frames) == 1:
        return f"{frames[0].frame_idx} {region_text(frames[0])}".rstrip()
    indices = [frame.frame_idx for frame in frames]
    return f"{len(indices)} ({min(indices)}..{max(indices)})"


def summary(trajectories: Sequence[Trajectory]) -> str:
    """Return one line: counts by stop reason, mean reward, mean turns, and why trajectories failed."""
    if not trajectories:
        return "0 trajectories"
    counts = Counter(trajectory.stop_reason for trajectory in trajectories)
    stops = ", ".join(f"{reason.value} {counts[reason]}" for reason in StopReason if counts[reason])
    rewards = [trajectory.scores.total for trajectory in trajectories if trajectory.scores]
    reward = f"mean reward {fmean(rewards):.3f}" if rewards else "no rewards"
    if rewards and len(rewards) < len(trajectories):
        reward += f" over {len(rewards)} scored"
    turns = [len(each.turns) for each in trajectories if each.stop_reason is not StopReason.SINGLE_PASS]
    mean_turns = f"{fmean(turns):.2f}" if turns else NONE
    reasons = Counter(plain(each.error, 200) or "no reason is stored" for each in trajectories if each.has_failed)
    failed = "".join(f"; failed: {reason} ({count})" for reason, count in reasons.most_common(3))
    noun = "trajectory" if len(trajectories) == 1 else "trajectories"
    return f"{len(trajectories)} {noun}: {stops}; {reward}; mean turns {mean_turns}{failed}"


def print_table(trajectories: Sequence[Trajectory], console: Console) -> None:
    """Print a row per turn; the first row also holds what belongs to the whole trajectory."""
    table = Table(header_style="bold", show_lines=False)
    table.add_column("trajectory", overflow="fold", max_width=48)
    for name in ("step", "turn"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("decision", max_width=24)
    table.add_column("interval", no_wrap=True)
    table.add_column("key frame", justify="right")
    table.add_column("frames shown")
    table.add_column("tokens", justify="right", no_wrap=True)
    table.add_column("stop", no_wrap=True)
    table.add_column("reward", justify="right", no_wrap=True)
    for trajectory in trajectories:
        for row in _rows(trajectory):
            table.add_row(*row)
        table.add_section()
    console.print(table)
    console.print(Text(summary(trajectories), style="bold"))


def _rows(trajectory: Trajectory) -> list[list[Text]]:
    name = Text(plain(trajectory.trajectory_id)).append(f"\n{plain(trajectory.task.expression)}", style="italic dim")
    reward = f"{trajectory.scores.total:.3f}" if trajectory.scores else NONE
    stop = Text(trajectory.stop_reason.value, style=STOP_STYLE[trajectory.stop_reason])
    rows = [_turn_cells(turn_idx, turn) for turn_idx, turn in enumerate(trajectory.turns)]
    if trajectory.stop_reason is StopReason.SINGLE_PASS:
        masks = f"masks on {len(trajectory.masks)} of {trajectory.task.video.num_frames} frames"
        rows = [[NONE, masks, NONE, NONE, NONE, NONE], *rows]
    if not rows:
        rows = [[NONE, plain(trajectory.error) or NONE, NONE, NONE, NONE, NONE]]
    elif trajectory.error:
        rows.append([NONE, plain(trajectory.error), NONE, NONE, NONE, NONE])
    first, *others = [[Text(cell) for cell in row] for row in rows]
    head = [name, Text(str(trajectory.step)), *first, stop, Text(reward)]
    return [head, *([Text(), Text(), *row, Text(), Text()] for row in others)]


def _turn_cells(turn_idx: int, turn: Turn) -> list[str]:
    decision = turn.decision
    interval = key_frame = NONE
    if not isinstance(decision, Malformed):
        interval = f"[{decision.interval.start}, {decision.interval.end})"
        key_frame = str(decision.key_frame)
    shown = frames_shown(turn.observation)
    return [str(turn_idx), plain(decision_word(decision)), interval, key_frame, shown, str(len(turn.action.token_ids))]
