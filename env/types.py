"""The data types of this program: task, observation, action, turn, trajectory. No torch, no I/O.

Axes, used as name suffixes wherever a tensor or array appears:
B sequences | G group | K turns | L tokens | V vocabulary | N objects | T frames | S sampled frames | H W pixels.

Intervals are half-open `[start, end)` in *source* frame indices; key frames are source frame indices. In the JSON that
the policy writes, `end` is the last frame of the interval; `env.actions` converts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

MAX_PIXELS = 1 << 26  # of a frame or mask, as in 8192 x 8192; larger claims are refused before anything is allocated
MAX_FRAMES = 1 << 20  # of a video, as in nine hours at 30 frames a second

# COCO run-length encoding of one mask: {"size": [height, width], "counts": str}.
RLE = dict[str, Any]

FIRST_ROLES = ("strip", "detail")  # of the frames that every episode begins with

Region = tuple[int, int, int, int]  # part of a frame in source pixels: left, top, right, bottom; the ends are outside


class StopReason(StrEnum):
    """Why an episode ended."""

    ANSWERED = "answered"  # the policy wrote a well-formed <answer>
    MAX_TURNS = "max_turns"  # a well-formed <select>, but no turn was left
    MALFORMED = "malformed"  # the last action could not be parsed
    TOO_LONG = "too_long"  # a token or context limit was reached
    SINGLE_PASS = "single_pass"  # a model family without turns segmented the video in one pass
    ERROR = "error"  # infrastructure or data failed; the trajectory is counted and kept out of the loss


@dataclass(frozen=True)
class Interval:
    """Half-open range of source frames. It is never empty."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"interval [{self.start}, {self.end}) is empty or negative")

    def __len__(self) -> int:
        return self.end - self.start

    def __contains__(self, frame_idx: int) -> bool:
        return self.start <= frame_idx < self.end


@dataclass(frozen=True)
class VideoRef:
    """Place of a video's pixels. `frames` holds frame names without suffix, or is empty for a video file."""

    root: str  # the data root; nothing outside it is ever opened
    path: str  # relative to root: a folder of JPEGs, or a video file
    frames: tuple[str, ...]
    num_frames: int
    height: int
    width: int
    stride: int = 1  # of a video file: frame i is the file's frame i * stride


@dataclass(frozen=True)
class FrameRef:
    """One frame as it is shown to the policy: a source index and the size it is resized to. Pixels are read on use."""

    frame_idx: int
    width: int
    height: int
    role: str  # one of `FIRST_ROLES`, or the role of the tool that shows it (`env.tools`)
    region: Region | None = None  # the part of the frame that is shown; None: all of it


@dataclass(frozen=True)
class Task:
    """One video, one expression and the gold masks of its target."""

    task_id: str  # "<data set>/<video>/<expression>"
    video: VideoRef
    expression: str
    gold: tuple[RLE | None, ...]  # [T]; None where the target is absent; empty tuple where gold is unknown
    family: str = "any"  # kind of query: appearance | motion | temporal | relation | no_target | any
    explore: str = ""  # why zooming helps: "brief_event", "fine_mark", or "" where the first observation is enough
    evidence: tuple[int, ...] = ()  # frames that hold the evidence when `explore` is set
    caption: str = ""  # appearance of the target ("dark red"), where the data set has it
    subset: str = ""  # part of the benchmark that it belongs to ("reasoning", "long"), where there are parts


def names_in(task_id: str) -> tuple[str, str]:
    """Return (video, expression) as the data set names them; a video's name may hold slashes."""
    video, _, expression = task_id.partition("/")[2].rpartition("/")
    return video, expression


@dataclass(frozen=True)
class Observation:
    """Text and frames that the policy is shown in one turn, in reading order; `system` in the first turn only."""

    parts: tuple[str | FrameRef, ...]
    system: str = ""

    @property
    def frames(self) -> tuple[FrameRef, ...]:
        """The frames alone."""
        return tuple(part for part in self.parts if isinstance(part, FrameRef))


@dataclass(frozen=True)
class Action:
    """Text that the policy wrote in one turn.

    Example: `text='<think>..</think>\\n<answer>..</answer>'`, `token_ids=(7, 9, 2)` with the end token last,
    `logprobs=(-.1, -.2, -.0)` under the sampler's own weights, `weights_version=12`, `finish="stop"`.
    """

    text: str
    token_ids: tuple[int, ...] = ()  # [L] as sampled, end token included
    logprobs: tuple[float, ...] = ()  # [L] of the sampler, at temperature 1, over the whole vocabulary
    weights_version: int = -1  # version of the weights that wrote it; -1 for human or recorded text
    finish: Literal["stop", "length"] = "stop"  # "length": cut off by the token limit


@dataclass(frozen=True)
class Select:
    """The policy asks to look closer; `env.tools` answers with frames of `interval` and with `key_frame`."""

    interval: Interval
    key_frame: int
    arguments: Mapping[str, tuple[int, ...]] = field(default_factory=dict, hash=False)  # what further tools are told


@dataclass(frozen=True)
class Answer:
    """The policy answers, which ends the episode."""

    interval: Interval
    key_frame: int


@dataclass(frozen=True)
class Malformed:
    """An action that could not be parsed; `reason` is a key of `env.actions.REASONS`."""

    reason: str
    detail: str = ""


Decision = Select | Answer | Malformed


@dataclass
class Turn:
    """One observation and the action that answers it; scoring adds the rest."""

    observation: Observation
    action: Action
    decision: Decision
    observation_ids: tuple[int, ...] = ()  # tokens put before the action, one image pad per frame
    old_logprobs: tuple[float, ...] = ()  # [L] of the learner before its update
    key_mask: RLE | None = None  # mask decoded from this turn's [SEG] on its own key frame
    mask_logprob: float | None = None  # log p_mask of the [SEG] (calibration); None if there is no mask
    mask_frame: int | None = None  # frame of `key_mask`, if it is not the key frame of the decision

    @property
    def key_mask_frame(self) -> int | None:
        """Source frame of `key_mask`; None if the turn names none, as a malformed one."""
        if self.mask_frame is not None:
            return self.mask_frame
        return None if isinstance(self.decision, Malformed) else self.decision.key_frame


@dataclass(frozen=True)
class Scores:
    """Weighted total and parts of the reward. A part is None if it does not apply to this trajectory."""

    total: float
    breakdown: dict[str, float | None]


@dataclass
class Trajectory:
    """Record of one episode: task, turns, stop reason, predicted masks and scores."""

    trajectory_id: str  # "<step>/<task_id>/<sibling>", unique within a run
    task: Task
    step: int  # optimizer step whose batch it belongs to; -1 outside training
    sibling: int  # position within its group, 0 .. G-1
    turns: list[Turn] = field(default_factory=list)
    stop_reason: StopReason = StopReason.ERROR
    error: str = ""  # what failed, when stop_reason is ERROR
    masks: dict[int, RLE] = field(default_factory=dict)  # predicted masks by source frame; all frames, or a sample
    scores: Scores | None = None
    advantage: float | None = None

    def fail(self, reason: str) -> None:
        """End the trajectory in an error: it keeps its turns and has no masks, scores or advantage."""
        self.stop_reason, self.error = StopReason.ERROR, reason
        self.masks, self.scores, self.advantage = {}, None, None

    @property
    def has_failed(self) -> bool:
        """Whether infrastructure or data failed, so that nothing in the trajectory is the policy's answer."""
        return self.stop_reason is StopReason.ERROR

    @property
    def decision(self) -> Decision | None:
        """The last turn's decision."""
        return self.turns[-1].decision if self.turns else None
