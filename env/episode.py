"""One episode: observations and actions in turn, until the policy answers or a limit ends it. No pixels are read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from configs.load import ConfigError
from configs.prompt_file import placeholders
from configs.schema import EnvConfig
from env.actions import parse_action
from env.errors import DataError, EnvError
from env.frames import frame_refs
from env.prompts import find_prompt, first_parts, later_parts, system_text
from env.spacing import detail_frames, strip_frames
from env.tools import TOOLS, enabled_tools, frames_by_tool
from env.types import Action, Decision, Malformed, Observation, Select, StopReason, Task


@dataclass(frozen=True)
class StepResult:
    """The result of one action: either the next observation, or the reason why the episode ended."""

    decision: Decision
    observation: Observation | None
    stop_reason: StopReason | None


class VideoSegEnv:
    """The environment of one episode; make a new one for the next.

    >>> env = VideoSegEnv(task, config)
    >>> observation = env.first_observation()
    >>> result = env.step(Action(text))  # until result.stop_reason is set
    """

    def __init__(
        self,
        task: Task,
        config: EnvConfig,
        clock: Callable[[], float] = time.monotonic,
        detail: Sequence[int] | None = None,
    ):
        """Prepare the episode of a task.

        Args:
            task: The video and the expression.
            config: What the policy is shown, and limits.
            clock: Returns seconds; tests pass their own.
            detail: Source frames that the first observation shows large; None: `config.detail_frames` of them.

        Raises:
            ConfigError: `config.prompt` is unknown, its file cannot be read or has no place for the large frames, or
                `config.tools` names an unknown tool.
            DataError: The video has no frames.
        """
        if task.video.num_frames < 1:
            raise DataError(f"task {task.task_id}", f"expected at least one frame, found {task.video.num_frames}")
        self.task = task
        self.config = config
        self._clock = clock
        self._detail = detail_frames(task.video.num_frames, config) if detail is None else tuple(sorted(detail))
        self._prompt = find_prompt(config.prompt)
        if self._detail and "detail" not in placeholders(self._prompt.first):
            raise ConfigError(f"env.prompt: {config.prompt}: first: expected {{detail}}, since large frames are shown")
        self._tools = tuple(enabled_tools(config).values())
        self._started: float | None = None
        self._num_turns = 0
        self._is_over = False

    @property
    def seconds(self) -> float:
        """Seconds since the first observation."""
        return 0.0 if self._started is None else self._clock() - self._started

    def first_observation(self) -> Observation:
        """Start the clock and return the strip, the detail frames and the query. EnvError when called twice."""
        if self._started is not None:
            raise EnvError("first_observation() was called twice; an environment serves one episode")
        self._started = self._clock()
        video, config = self.task.video, self.config
        strip = strip_frames(video.num_frames, config)
        parts = first_parts(
            self._prompt,
            self.task.expression,
            video.num_frames,
            frame_refs(video, strip, "strip", config.strip_pixels, config.size_factor),
            frame_refs(video, self._detail, "detail", config.detail_pixels, config.size_factor),
        )
        return Observation(parts, system_text(self._prompt, [tool.help for tool in self._tools]))

    def step(self, action: Action) -> StepResult:
        """Parse one action and answer it. EnvError before the first observation and after the end."""
        if self._started is None:
            raise EnvError("step() was called before first_observation()")
        if self._is_over:
            raise EnvError("step() was called after the episode ended; make a new VideoSegEnv")
        self._num_turns += 1
        num_frames, bounds = self.task.video.num_frames, self.config.bounds
        decision = parse_action(action.text, num_frames, action.finish, self._tools, bounds)
        stop_reason = self._stop_reason(action, decision, self.seconds)
        if stop_reason is None and isinstance(decision, Select):
            return StepResult(decision, self._look_closer(decision), None)
        self._is_over = True
        return StepResult(decision, None, stop_reason)

    def _stop_reason(self, action: Action, decision: Decision, seconds: float) -> StopReason | None:
        if seconds > self.config.max_seconds:
            return StopReason.ERROR  # not a fault of the policy: the machine may be busy
        if action.finish == "length":
            return StopReason.TOO_LONG
        if isinstance(decision, Malformed):
            return StopReason.MALFORMED
        if not isinstance(decision, Select):
            return StopReason.ANSWERED
        return StopReason.MAX_TURNS if self._num_turns >= self.config.max_turns else None

    def _look_closer(self, select: Select) -> Observation:
        video, wording = self.task.video, self.config.prompt
        shown = [
            (name, TOOLS[name].layout.get(wording, ""), frames)
            for name, frames in frames_by_tool(video, select, self.config)
        ]
        return Observation(later_parts(self._prompt, self.task.expression, video.num_frames, select, shown))
