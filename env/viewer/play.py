"""A person plays the environment in the terminal: sees what the policy sees, acts in its grammar, is scored like it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import cv2
import numpy as np
from rich.columns import Columns
from rich.console import Console
from rich.text import Text

from configs.schema import EnvConfig
from env.actions import format_decision
from env.episode import VideoSegEnv
from env.frames import FrameCache
from env.types import Action, Answer, FrameRef, Interval, Observation, Select, Task, Trajectory, Turn, VideoRef
from env.viewer.table import decision_word, frames_shown, plain

ScorePlay = Callable[[Trajectory], Mapping[str, float | None]]
KINDS = {"zoom": Select, "answer": Answer}
HELP = "write `zoom START END KEY` to look closer or `answer START END KEY` to finish; END is the last frame, 0-based"
HALF_BLOCK = "\N{UPPER HALF BLOCK}"
GREYS = " .:-=+*#%@"
STRIP_COLUMNS, LARGE_COLUMNS = 28, 56  # characters that a frame is wide
MAX_ROWS = 24


def play(task: Task, config: EnvConfig, score: ScorePlay, console: Console, lines: Iterable[str]) -> Trajectory | None:
    """Play one episode of `task` with commands read from `lines`; None where they end before the episode does.

    `score` names the numbers told at the end, from the finished trajectory (it has no masks). A frame that cannot be
    read raises DataError.
    """
    env = VideoSegEnv(task, config)
    frames = FrameCache()
    commands = iter(lines)
    trajectory = Trajectory(f"-1/{task.task_id}/0", task, step=-1, sibling=0)
    observation: Observation | None = env.first_observation()
    console.print(Text(f"Find: {plain(task.expression)} (task {plain(task.task_id)})", style="bold"))
    console.print(Text(f"{task.video.num_frames} frames, {config.max_turns} turns. {HELP[0].upper()}{HELP[1:]}."))
    while observation is not None:
        _show(observation, len(trajectory.turns), task.video, frames, console)
        wish = _next_wish(commands, task.video.num_frames, console)
        if wish is None:
            console.print(Text("No more input; the episode is left unfinished."))
            return None
        action = Action(f"<think>played by hand</think>\n{format_decision(wish)}")
        result = env.step(action)
        trajectory.turns.append(Turn(observation, action, result.decision))
        observation = result.observation
        if result.stop_reason is not None:
            trajectory.stop_reason = result.stop_reason
    _tell(trajectory, score, console)
    return trajectory


def parse_command(line: str, num_frames: int) -> Select | Answer:
    """`zoom 10 24 17` as a decision. ValueError says what is wrong with the line."""
    words = line.split()
    if len(words) != 4 or words[0].lower() not in KINDS:
        raise ValueError(HELP)
    numbers = []
    for name, word in zip(("START", "END", "KEY"), words[1:], strict=True):
        if not (word.isascii() and word.isdigit() and len(word) < 10):
            raise ValueError(f"{name} is {word!r}, expected a frame from 0 to {num_frames - 1}")
        if int(word) >= num_frames:
            raise ValueError(f"{name} is {word}, but the last frame is {num_frames - 1}")
        numbers.append(int(word))
    start, last, key_frame = numbers
    if start > last:
        raise ValueError(f"START {start} comes after END {last}")
    return KINDS[words[0].lower()](Interval(start, last + 1), key_frame)


def draw_frame(pixels_HWC: np.ndarray, columns: int, has_colour: bool) -> Text:
    """uint8 RGB pixels as half-block characters, two pixels each, or in grey letters where there is no colour."""
    height, width = pixels_HWC.shape[:2]
    # A character is about twice as high as wide, so that half of one is square.
    rows = min(MAX_ROWS, max(1, round(columns * height / width / 2)))
    columns = max(1, min(columns, round(rows * 2 * width / height)))
    text = Text(no_wrap=True, end="")
    if not has_colour:
        small_HW = cv2.cvtColor(
            cv2.resize(pixels_HWC, (columns, rows), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY
        )
        text.append("\n".join("".join(GREYS[value * len(GREYS) // 256] for value in row) for row in small_HW.tolist()))
        return text
    small_HWC = cv2.resize(pixels_HWC, (columns, rows * 2), interpolation=cv2.INTER_AREA)
    for row in range(rows):
        for upper, lower in zip(small_HWC[2 * row], small_HWC[2 * row + 1], strict=True):
            text.append(HALF_BLOCK, style=f"{_rgb(upper)} on {_rgb(lower)}")
        text.append("\n" if row + 1 < rows else "")
    return text


def _show(observation: Observation, turn_idx: int, video: VideoRef, frames: FrameCache, console: Console) -> None:
    console.rule(Text(f"turn {turn_idx}: {frames_shown(observation)}"))
    for is_large in (False, True):
        refs = [ref for ref in observation.frames if (ref.role in ("detail", "key")) == is_large]
        if refs:
            console.print(Columns(_drawn(refs, is_large, video, frames, console), padding=(0, 1)))


def _drawn(
    refs: Sequence[FrameRef], is_large: bool, video: VideoRef, frames: FrameCache, console: Console
) -> list[Text]:
    columns = min(console.width, LARGE_COLUMNS if is_large else STRIP_COLUMNS)
    has_colour = console.color_system is not None
    drawn = []
    for ref in refs:
        picture = draw_frame(frames.pixels(video, ref), columns, has_colour)
        drawn.append(Text(f"frame {ref.frame_idx} ({ref.role})\n", no_wrap=True).append_text(picture))
    return drawn


def _next_wish(commands: Iterable[str], num_frames: int, console: Console) -> Select | Answer | None:
    console.print(Text("> "), end="")
    for line in commands:
        try:
            return parse_command(line, num_frames)
        except ValueError as error:
            console.print(Text(plain(str(error)), style="yellow"))
            console.print(Text("> "), end="")
    console.print()
    return None


def _tell(trajectory: Trajectory, score: ScorePlay, console: Console) -> None:
    decision = trajectory.decision
    assert isinstance(decision, Select | Answer)  # a person's line becomes a turn only when it is well formed
    interval = decision.interval
    console.rule(Text(f"{trajectory.stop_reason.value} after {len(trajectory.turns)} turns"))
    console.print(
        Text(f"{decision_word(decision)}: [{interval.start}, {interval.end}), key frame {decision.key_frame}")
    )
    if not trajectory.task.gold:
        console.print(Text("This task has no gold masks to compare with."))
        return
    for name, value in score(trajectory).items():
        console.print(Text(f"{name}: {'does not apply' if value is None else format(value, '.3f')}"))


def _rgb(pixel: np.ndarray) -> str:
    return "#{:02x}{:02x}{:02x}".format(*pixel.tolist())
