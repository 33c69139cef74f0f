"""An episode in the terminal in which a person acts: the same frames, grammar and scores as for the policy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import cv2
import numpy as np
from rich.columns import Columns
from rich.console import Console
from rich.text import Text

from configs.plain_text import plain
from configs.schema import EnvConfig
from env.actions import REASONS, format_decision, parse_action
from env.episode import VideoSegEnv
from env.frames import FrameCache
from env.tools import enabled_tools
from env.tools.base import Tool
from env.types import (
    Action,
    Answer,
    FrameRef,
    Interval,
    Malformed,
    Observation,
    Select,
    Task,
    Trajectory,
    Turn,
    VideoRef,
)
from env.viewer.table import decision_word, frames_shown

ScorePlay = Callable[[Trajectory], Mapping[str, float | None]]
WORDS = ("zoom", "answer")
HELP = "write `zoom START END KEY` to look closer or `answer START END KEY` to finish; END is the last frame, 0-based"
HALF_BLOCK = "\N{UPPER HALF BLOCK}"
GREYS = " .:-=+*#%@"
STRIP_COLUMNS, LARGE_COLUMNS = 28, 56  # characters that a frame is wide
MAX_ROWS = 24


def play(task: Task, config: EnvConfig, score: ScorePlay, console: Console, lines: Iterable[str]) -> Trajectory | None:
    """Run one episode in which a person acts.

    Args:
        task: The task.
        config: What is shown, and limits.
        score: Returns the numbers that are printed at the end, given the finished trajectory (it has no masks).
        console: Frames and messages are printed here.
        lines: The person's commands.

    Returns:
        The trajectory; None if the lines end before the episode does.

    Raises:
        DataError: A frame cannot be read.
    """
    env = VideoSegEnv(task, config)
    tools = enabled_tools(config)
    frames = FrameCache()
    commands = iter(lines)
    trajectory = Trajectory(f"-1/{task.task_id}/0", task, step=-1, sibling=0)
    observation: Observation | None = env.first_observation()
    console.print(Text(f"Find: {plain(task.expression)} (task {plain(task.task_id)})", style="bold"))
    usage = command_help(tools)
    console.print(Text(f"{task.video.num_frames} frames, {config.max_turns} turns. {usage[0].upper()}{usage[1:]}."))
    large_roles = {"detail", *(tool.role for tool in tools.values() if tool.is_large)}
    while observation is not None:
        console.rule(Text(f"turn {len(trajectory.turns)}: {frames_shown(observation)}"))
        for is_large in (False, True):
            refs = [ref for ref in observation.frames if (ref.role in large_roles) == is_large]
            _show(refs, is_large, task.video, frames, console)
        decision = _next_decision(commands, task.video.num_frames, tools, console)
        if decision is None:
            console.print(Text("No more input; the episode is left unfinished."))
            return None
        action = Action(_action_text(decision))
        result = env.step(action)
        trajectory.turns.append(Turn(observation, action, result.decision))
        observation = result.observation
        if result.stop_reason is not None:
            trajectory.stop_reason = result.stop_reason
    _tell(trajectory, score, console)
    return trajectory


def command_help(tools: Mapping[str, Tool]) -> str:
    """Return the commands that a person may write, with the arguments of the enabled tools."""
    usages = [HELP]
    for tool_name, tool in tools.items():
        arguments = " ".join(f"{name}={','.join('N' * count)}" for name, count in tool.arguments.items())
        if arguments:
            usages.append(f"add `{arguments}` to a zoom for the tool {tool_name}")
    return "; ".join(usages)


def parse_command(line: str, num_frames: int, tools: Mapping[str, Tool]) -> Select | Answer:
    """Return the decision that a line such as `zoom 10 24 17` stands for.

    Args:
        line: What the person wrote.
        num_frames: Length of the video.
        tools: The enabled tools by name; their own arguments follow as `box=10,20,300,400`.

    Raises:
        ValueError: The line is no command; the message says why.
    """
    words = line.split()
    given = [word for word in words if "=" in word]
    words = [word for word in words if "=" not in word]
    if len(words) != 4 or words[0].lower() not in WORDS or (given and words[0].lower() == "answer"):
        raise ValueError(command_help(tools))
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
    interval = Interval(start, last + 1)
    if words[0].lower() == "answer":
        return Answer(interval, key_frame)
    return _with_arguments(Select(interval, key_frame), given, num_frames, tools)


def _with_arguments(select: Select, given: Sequence[str], num_frames: int, tools: Mapping[str, Tool]) -> Select:
    """Return the select with `name=1,2` texts as arguments, within the limits that hold for the policy, too."""
    arguments = {}
    for text in given:
        name, _, values = text.partition("=")
        numbers = values.split(",")
        if not all(re.fullmatch(r"-?[0-9]{1,9}", number) for number in numbers):
            raise ValueError(f"{name} is {values!r}, expected whole numbers with commas between them")
        arguments[name] = tuple(map(int, numbers))
    decision = parse_action(_action_text(replace(select, arguments=arguments)), num_frames, tools=tools.values())
    if isinstance(decision, Select):
        return decision
    assert isinstance(decision, Malformed)
    raise ValueError(f"{REASONS[decision.reason]} ({decision.detail})")


def _action_text(decision: Select | Answer) -> str:
    return f"<think>written by hand</think>\n{format_decision(decision)}"


def draw_frame(pixels_HWC: np.ndarray, columns: int, has_colour: bool) -> Text:
    """Return pixels as text.

    Args:
        pixels_HWC: uint8 RGB.
        columns: Most characters of a line.
        has_colour: Whether to print two pixels a character in colour; else each is a character from dark to light.
    """
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


def _show(refs: Sequence[FrameRef], is_large: bool, video: VideoRef, frames: FrameCache, console: Console) -> None:
    """Print frames side by side, large or small; nothing where there are none."""
    columns = min(console.width, LARGE_COLUMNS if is_large else STRIP_COLUMNS)
    has_colour = console.color_system is not None
    drawn = []
    for ref in refs:
        picture = draw_frame(frames.pixels(video, ref), columns, has_colour)
        drawn.append(Text(f"frame {ref.frame_idx} ({ref.role})\n", no_wrap=True).append_text(picture))
    if drawn:
        console.print(Columns(drawn, padding=(0, 1)))


def _next_decision(
    commands: Iterable[str], num_frames: int, tools: Mapping[str, Tool], console: Console
) -> Select | Answer | None:
    console.print(Text("> "), end="")
    for line in commands:
        try:
            return parse_command(line, num_frames, tools)
        except ValueError as error:
            console.print(Text(plain(str(error)), style="yellow"))
            console.print(Text("> "), end="")
    console.print()
    return None


def _tell(trajectory: Trajectory, score: ScorePlay, console: Console) -> None:
    decision = trajectory.decision
    assert isinstance(decision, Select | Answer)  # a person's line becomes a turn only when it is well-formed
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
