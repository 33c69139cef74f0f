"""Many episodes at once against one sampler: submit, take what is finished, step its environment, submit again.

Knows nothing of engines or Ray. A conversation that finishes a turn re-enters at once, so none waits for the slowest.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import numpy as np

from configs.schema import EnvConfig
from env.episode import VideoSegEnv
from env.errors import VideoSegError
from env.types import Action, Malformed, Observation, StopReason, Trajectory, Turn
from policy.engines.base import Completion, Request, Sampler
from policy.vlm.batch import Frames
from policy.vlm.chat_tokens import ChatTokens
from policy.vlm.patches import PatchLayout
from rl.rollout.request import Assignment, RolloutStats

READERS = 4  # threads that decode and resize frames


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
    reading: Future[list[np.ndarray]] | None = None  # the newest observation's frames
    turn_started: float = 0.0  # when the sampler got the turn, `time.monotonic`

    @property
    def request_id(self) -> str:
        return f"{self.assignment.trajectory_id}#{len(self.trajectory.turns)}"


class Rollout:
    """Plays assignments on one sampler. Frames are read by threads while the sampler writes other turns."""

    def __init__(self, sampler: Sampler, chat: ChatTokens, layout: PatchLayout, frames: Frames, config: EnvConfig):
        self.sampler = sampler
        self.chat = chat
        self.layout = layout
        self.frames = frames
        self.config = config
        self._readers = ThreadPoolExecutor(READERS, "frames")
        self._reading: dict[str, _Conversation] = {}  # by request id, until their frames are there
        self._writing: dict[str, _Conversation] = {}  # by request id, until the sampler has written the turn
        self._ended: list[Trajectory] = []
        self._stats = RolloutStats()

    def run(self, assignments: Sequence[Assignment]) -> Iterator[Trajectory]:
        """Yield trajectories as their episodes end, in no fixed order. Data that cannot be read ends only its own."""
        for assignment in assignments:
            self.begin(assignment)
        while self.busy:
            yield from self.step()

    @property
    def busy(self) -> bool:
        """Whether episodes are in flight, or have ended and not been taken by `step` yet."""
        return bool(self._reading or self._writing or self._ended)

    def begin(self, assignment: Assignment) -> None:
        """Open an episode; `step` plays it."""
        trajectory = Trajectory(assignment.trajectory_id, assignment.task, assignment.step, assignment.sibling)
        try:
            env = VideoSegEnv(assignment.task, self.config)
            conversation = _Conversation(assignment, env, trajectory, env.first_observation())
        except VideoSegError as error:
            self._fail(trajectory, str(error))
            return
        self._ask(conversation)

    def step(self) -> list[Trajectory]:
        """Write some tokens of all turns; returns the trajectories whose episodes have ended since the last call."""
        if self._reading and not self._writing:
            reading = [each.reading for each in self._reading.values() if each.reading]
            wait(reading, return_when=FIRST_COMPLETED)
        for request_id in [name for name, each in self._reading.items() if each.reading and each.reading.done()]:
            self._submit(self._reading.pop(request_id))
        for completion in self.sampler.step():
            self._stats.add(completion)
            self._advance(self._writing.pop(completion.request_id), completion)
        self._drop_overdue()
        ended, self._ended = self._ended, []
        return ended

    def abandon(self) -> None:
        """Forget all episodes in flight; nobody waits for them any more."""
        self.sampler.abort(list(self._writing))
        self._reading.clear()
        self._writing.clear()
        self._ended.clear()

    def take_stats(self) -> RolloutStats:
        """What was done since the last call."""
        stats, self._stats = self._stats, RolloutStats()
        return stats

    def _ask(self, conversation: _Conversation) -> None:
        """Append the newest observation and have its frames read; ends the episode when no token is left to write."""
        observation, trajectory = conversation.observation, conversation.trajectory
        ids = self.chat.observation_ids(observation, first=not trajectory.turns)
        shown = [self.layout.num_tokens(frame.height, frame.width) for frame in observation.frames]
        conversation.prompt_ids += ids
        conversation.num_tokens += len(ids) + sum(shown) - len(shown)
        if conversation.num_tokens >= self.config.max_context_tokens:
            self._end(trajectory, StopReason.TOO_LONG)
            return
        conversation.observation_ids = tuple(ids)
        conversation.reading = self._readers.submit(self._read, conversation)
        self._reading[conversation.request_id] = conversation

    def _read(self, conversation: _Conversation) -> list[np.ndarray]:
        video = conversation.trajectory.task.video
        return [self.frames.pixels(video, frame) for frame in conversation.observation.frames]

    def _submit(self, conversation: _Conversation) -> None:
        """Ask for the next turn, now that its frames are there."""
        assert conversation.reading is not None
        trajectory = conversation.trajectory
        try:
            conversation.images += conversation.reading.result()
        except VideoSegError as error:
            self._fail(trajectory, str(error))
            return
        room = self.config.max_context_tokens - conversation.num_tokens
        request = Request(
            request_id=conversation.request_id,
            prompt_ids=tuple(conversation.prompt_ids),
            images=tuple(conversation.images),
            max_tokens=min(self.config.max_action_tokens, room),
            temperature=conversation.assignment.temperature,
            seed=conversation.assignment.turn_seed(len(trajectory.turns)),
        )
        conversation.turn_started = time.monotonic()
        self._writing[request.request_id] = conversation
        self.sampler.submit(request)

    def _advance(self, conversation: _Conversation, completion: Completion) -> None:
        """Take a written turn: step its environment, and ask for the next one or end the episode."""
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
        trajectory.turns.append(turn)
        conversation.prompt_ids += completion.token_ids
        conversation.num_tokens += len(completion.token_ids)
        if set(completion.token_ids) & set(self.chat.banned_ids):
            turn.decision = Malformed("media_token", "the sampler let a banned token through")
            self._end(trajectory, StopReason.MALFORMED)
        elif result.observation is not None:
            conversation.observation = result.observation
            self._ask(conversation)
        elif result.stop_reason is StopReason.ERROR:
            self._fail(trajectory, f"took longer than env.max_seconds ({self.config.max_seconds:g})")
        else:
            assert result.stop_reason is not None
            self._end(trajectory, result.stop_reason)

    def _drop_overdue(self) -> None:
        """End episodes whose turn, or all of them, take too long: an engine may hang on one request."""
        now = time.monotonic()
        for request_id, conversation in list(self._writing.items()):
            overdue = ""
            if now - conversation.turn_started > self.config.max_turn_seconds:
                overdue = f"a turn took longer than env.max_turn_seconds ({self.config.max_turn_seconds:g})"
            elif conversation.env.seconds > self.config.max_seconds:
                overdue = f"took longer than env.max_seconds ({self.config.max_seconds:g})"
            if overdue:
                self.sampler.abort([request_id])
                del self._writing[request_id]
                self._fail(conversation.trajectory, overdue)

    def _end(self, trajectory: Trajectory, reason: StopReason) -> None:
        trajectory.stop_reason = reason
        self._ended.append(trajectory)

    def _fail(self, trajectory: Trajectory, error: str) -> None:
        trajectory.error = error
        self._end(trajectory, StopReason.ERROR)
