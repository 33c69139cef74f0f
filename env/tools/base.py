"""`Tool`: all that the program knows of one way to look closer at the video."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from configs.schema import EnvConfig
from env.prompts import FrameRefs, Parts
from env.types import Select, VideoRef


def _no_problem(select: Select, num_frames: int) -> str:
    return ""


@dataclass(frozen=True)
class Tool:
    """One way to look closer. A `<select>` calls each enabled tool whose own arguments it holds, in the config's order.

    Every action names an interval and a key frame; `select.interval` and `select.key_frame` are there for all tools.
    Its parser, the terminal and the trace checks accept further arguments only as they are declared here.
    """

    role: str  # of its frames: lowercase letters and underscores, unlike that of any other tool
    help: str  # its line in the system text of the prompt
    show: Callable[[VideoRef, Select, EnvConfig], FrameRefs]  # the frames that answer a select
    layout: Mapping[str, Callable[[Select, FrameRefs], Parts]]  # text around them, by prompt wording (`PROMPTS`)
    arguments: Mapping[str, int] = field(default_factory=dict)
    """Its own keys in the JSON of a `<select>`, and how many whole numbers each holds: 1 is a number, more a list."""
    problem: Callable[[Select, int], str] = _no_problem
    """Its limits: what is wrong with a select, given the video's number of frames; empty where nothing is."""
    is_large: bool = False  # whether the terminal draws its frames large

    def is_called(self, select: Select) -> bool:
        """Return whether the select holds all of the tool's own arguments; a tool without any is always called."""
        return all(name in select.arguments for name in self.arguments)
