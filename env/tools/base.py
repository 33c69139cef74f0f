"""`Tool`: one way to look closer at the video, as an entry of `env.tools.TOOLS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from configs.schema import EnvConfig
from env.prompts import FrameRefs
from env.types import Select, VideoRef


def _no_problem(select: Select, num_frames: int) -> str:
    return ""


@dataclass(frozen=True)
class Tool:
    """One way to look closer.

    A `<select>` calls each enabled tool whose own arguments it holds, in the order of the config. Every action names an
    interval and a key frame, so all tools may use `select.interval` and `select.key_frame`. The parser, the viewer, the
    trace checks and the metrics have no other knowledge of a tool than its entry.
    """

    role: str  # of its frames: lowercase letters and underscores, unlike that of any other tool
    help: str  # its line in the system text of the prompt
    show: Callable[[VideoRef, Select, EnvConfig], FrameRefs]  # the frames that answer a select
    layout: Mapping[str, str] = field(default_factory=dict)
    """The text around its frames, by built-in prompt, with the placeholders of a prompt's `later` texts. It needs none
    for a prompt that has a `later` text for the tool."""
    arguments: Mapping[str, int] = field(default_factory=dict)
    """Its own keys in the JSON of a `<select>`, and the count of whole numbers that each holds: 1 is a plain number,
    more are a list."""
    problem: Callable[[Select, int], str] = _no_problem
    """Its limits. Returns what is wrong with a select of a video with so many frames; "" if nothing is."""
    is_large: bool = False  # whether the terminal shows its frames large

    def is_called(self, select: Select) -> bool:
        """Return whether the select holds all of the tool's own arguments; a tool without any is always called."""
        return all(name in select.arguments for name in self.arguments)
