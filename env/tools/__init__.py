"""The tools with which the policy looks closer at the video.

Each is one file and one line in `TOOLS`. The config key `env.tools` enables them.
"""

from __future__ import annotations

from configs.load import ConfigError
from configs.names import unknown_name
from configs.schema import EnvConfig
from env.prompts import FrameRefs, find_prompt
from env.tools.base import Tool
from env.tools.key_frame import KEY_FRAME
from env.tools.zoom import ZOOM
from env.types import Select, Trajectory, VideoRef

TOOLS: dict[str, Tool] = {
    "zoom": ZOOM,
    "key_frame": KEY_FRAME,
}


def enabled_tools(config: EnvConfig) -> dict[str, Tool]:
    """Return the tools that `config.tools` names, in its order.

    Raises:
        ConfigError: A name is unknown, or neither the prompt nor a tool has a text for the tool's frames.
    """
    later = find_prompt(config.prompt).later
    for name in config.tools:
        if name not in TOOLS:
            raise ConfigError(unknown_name("env.tools", name, TOOLS))
        if name not in later and config.prompt not in TOOLS[name].layout:
            wordings = ", ".join(TOOLS[name].layout)
            raise ConfigError(
                f"env.prompt: expected one of {wordings} beside the tool {name!r}, or a text for it in the file, "
                f"got {config.prompt!r}"
            )
    return {name: TOOLS[name] for name in config.tools}


def frames_by_tool(video: VideoRef, select: Select, config: EnvConfig) -> list[tuple[str, FrameRefs]]:
    """Return the names of the tools that a select calls, each with the frames that it shows.

    Args:
        video: The video of the task.
        select: What the policy asks for.
        config: Names the enabled tools and the numbers and sizes of their frames.
    """
    tools = enabled_tools(config).items()
    return [(name, tool.show(video, select, config)) for name, tool in tools if tool.is_called(select)]


def num_uses(trajectory: Trajectory, tool: Tool) -> int:
    """Return how many turns of a trajectory show frames of the tool."""
    return sum(any(frame.role == tool.role for frame in turn.observation.frames) for turn in trajectory.turns)
