"""Many episodes at once against one sampler: submit, take what is finished, step its environment, submit again.

Knows nothing of engines or Ray. A conversation that finishes a turn re-enters at once, so none waits for the slowest.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from configs.schema import EnvConfig
from env.episode import VideoSegEnv
from env.errors import VideoSegError
from env.types import Action, Malformed, Observation, StopReason, Task, Trajectory, Turn
from policy.batch import Frames
from policy.patches import PatchLayout
from policy.sampler import Completion, Request, Sampler
from policy.tokens import ChatTokens


@dataclass(frozen=True)
class Assignment:
    """One episode to be played. Its seed follows from its names: a retry or a resumed run samples the same tokens."""

    task: Task
    step: int
    sibling: int
    seed: int  # of the run
    temperature: float

    @property
    def trajectory_id(self) -> str:
        return f"{self.step}/{self.task.task_id}/{self.sibling}"

    def turn_seed(self, turn: int) -> int:
        """31-bit seed of one turn's sampling."""
        return zlib.crc32(f"{self.seed}/{self.trajectory_id}/{turn}".encode()) & 0x7FFFFFFF


@dataclass
class _Conversation:
    """An episode in flight."""

    assignment: Assignment
    env: VideoSegEnv
    trajectory: Trajectory
    observation: Observation
    prompt_ids: list[int] = field(default_factory=list)  # one image pad per frame
    num_tokens: int = 0  # of the expanded form
    images: list[np.ndarray] = field(default_factory=list)
    observation_ids: tuple[int, ...] = ()


class Rollout:
    """Plays assignments on one sampler."""

    def __init__(self, sampler: Sampler, chat: ChatTokens, layout: PatchLayout, frames: Frames, config: EnvConfig):
        self.sampler = sampler
        self.chat = chat
        self.layout = layout
        self.frames = frames
        self.config = config
        self._live: dict[str, _Conversation] = {}

    def run(self, assignments: Sequence[Assignment]) -> Iterator[Trajectory]:
        """Yield trajectories as their episodes end, in no fixed order. Data that cannot be read ends only its own."""
        for assignment in assignments:
            trajectory = Trajectory(assignment.trajectory_id, assignment.task, assignment.step, assignment.sibling)
            try:
                env = VideoSegEnv(assignment.task, self.config)
                conversation = _Conversation(assignment, env, trajectory, env.first_observation())
                has_room = self._submit(conversation)
            except VideoSegError as error:
                trajectory.error = str(error)
                yield trajectory
                continue
            if not has_room:
                yield trajectory
        while self._live:
            for completion in self.sampler.step():
                finished = self._advance(completion)
                if finished is not None:
                    yield finished

    def _submit(self, conversation: _Conversation) -> bool:
        """Ask for the next turn; False when no token is left for it (then the trajectory is closed as too long)."""
        observation, trajectory = conversation.observation, conversation.trajectory
        ids = self.chat.observation_ids(observation, first=not trajectory.turns)
        shown = [self.layout.num_tokens(frame.height, frame.width) for frame in observation.frames]
        conversation.prompt_ids += ids
        conversation.num_tokens += len(ids) + sum(shown) - len(shown)
        room = self.config.max_context_tokens - conversation.num_tokens
        if room < 1:
            trajectory.stop_reason = StopReason.TOO_LONG
            return False
        conversation.observation_ids = tuple(ids)
        conversation.images += [self.frames.pixels(trajectory.task.video, frame) for frame in observation.frames]
        assignment = conversation.assignment
        request = Request(
            request_id=f"{assignment.trajectory_id}#{len(trajectory.turns)}",
            prompt_ids=tuple(conversation.prompt_ids),
            images=tuple(conversation.images),
            max_tokens=min(self.config.max_action_tokens, room),
            temperature=assignment.temperature,
            seed=assignment.turn_seed(len(trajectory.turns)),
        )
        self._live[request.request_id] = conversation
        self.sampler.submit(request)
        return True

    def _advance(self, completion: Completion) -> Trajectory | None:
        """Take a finished turn; the trajectory when its episode is over, else None."""
        conversation = self._live.pop(completion.request_id)
        trajectory = conversation.trajectory
        action = Action(
            text=self.chat.decode_action(completion.token_ids),
            token_ids=completion.token_ids,
            logprobs=completion.logprobs,
            weights_version=completion.weights_version,
            finish=completion.finish,
        )
        result = conversation.env.step(action)
        turn = Turn(conversation.observation, action, result.decision, conversation.observation_ids)
        if set(completion.token_ids) & set(self.chat.banned_ids):
            turn.decision = Malformed("media_token", "the sampler let a banned token through")
            result = None
        trajectory.turns.append(turn)
        conversation.prompt_ids += completion.token_ids
        conversation.num_tokens += len(completion.token_ids)
        if result is None:
            trajectory.stop_reason = StopReason.MALFORMED
            return trajectory
        if result.observation is None:
            assert result.stop_reason is not None
            trajectory.stop_reason = result.stop_reason
            if result.stop_reason is StopReason.ERROR:
                trajectory.error = f"took longer than env.max_seconds ({self.config.max_seconds:g})"
            return trajectory
        conversation.observation = result.observation
        try:
            return None if self._submit(conversation) else trajectory
        except VideoSegError as error:
            trajectory.stop_reason, trajectory.error = StopReason.ERROR, str(error)
            return trajectory
