"""Many episodes at once against one sampler: submit, take what is finished, step its environment, submit again.

Knows nothing of engines or Ray. A episode that finishes a turn re-enters at once, so none waits for the slowest.
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
from policy.engines.base import Completion, GenerationRequest, Sampler
from policy.vlm.batch import FrameSource
from policy.vlm.chat_tokens import ChatTokens
from policy.vlm.patches import PatchLayout
from rl.rollout.request import RolloutRequest, RolloutStats

READERS = 4  # threads that decode and resize frames


@dataclass
class _Episode:
    """An episode in flight."""

    origin: RolloutRequest
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
        return f"{self.origin.trajectory_id}#{len(self.trajectory.turns)}"


class EpisodeRunner:
    """Plays assignments on one sampler. Frames are read by threads while the sampler writes other turns."""

    def __init__(self, sampler: Sampler, chat: ChatTokens, layout: PatchLayout, frames: FrameSource, config: EnvConfig):
        self.sampler = sampler
        self.chat = chat
        self.layout = layout
        self.frames = frames
        self.config = config
        self._readers = ThreadPoolExecutor(READERS, "frames")
        self._reading: dict[str, _Episode] = {}  # by request id, until their frames are there
        self._writing: dict[str, _Episode] = {}  # by request id, until the sampler has written the turn
        self._ended: list[Trajectory] = []
        self._stats = RolloutStats()

    def run(self, requests: Sequence[RolloutRequest]) -> Iterator[Trajectory]:
        """Yield trajectories as their episodes end, in no fixed order. Data that cannot be read ends only its own."""
        for request in requests:
            self.begin(request)
        while self.busy:
            yield from self.step()

    @property
    def busy(self) -> bool:
        """Whether episodes are in flight, or have ended and not been taken by `step` yet."""
        return bool(self._reading or self._writing or self._ended)

    def begin(self, request: RolloutRequest) -> None:
        """Open an episode; `step` plays it."""
        trajectory = Trajectory(request.trajectory_id, request.task, request.step, request.sibling)
        try:
            env = VideoSegEnv(request.task, self.config)
            episode = _Episode(request, env, trajectory, env.first_observation())
        except VideoSegError as error:
            self._fail(trajectory, str(error))
            return
        self._ask(episode)

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

    def _ask(self, episode: _Episode) -> None:
        """Append the newest observation and have its frames read; ends the episode when no token is left to write."""
        observation, trajectory = episode.observation, episode.trajectory
        ids = self.chat.observation_ids(observation, first=not trajectory.turns)
        shown = [self.layout.num_tokens(frame.height, frame.width) for frame in observation.frames]
        episode.prompt_ids += ids
        episode.num_tokens += len(ids) + sum(shown) - len(shown)
        if episode.num_tokens >= self.config.max_context_tokens:
            self._end(trajectory, StopReason.TOO_LONG)
            return
        episode.observation_ids = tuple(ids)
        episode.reading = self._readers.submit(self._read, episode)
        self._reading[episode.request_id] = episode

    def _read(self, episode: _Episode) -> list[np.ndarray]:
        video = episode.trajectory.task.video
        return [self.frames.pixels(video, frame) for frame in episode.observation.frames]

    def _submit(self, episode: _Episode) -> None:
        """Ask for the next turn, now that its frames are there."""
        assert episode.reading is not None
        trajectory = episode.trajectory
        try:
            episode.images += episode.reading.result()
        except VideoSegError as error:
            self._fail(trajectory, str(error))
            return
        room = self.config.max_context_tokens - episode.num_tokens
        request = GenerationRequest(
            request_id=episode.request_id,
            prompt_ids=tuple(episode.prompt_ids),
            images=tuple(episode.images),
            max_tokens=min(self.config.max_action_tokens, room),
            temperature=episode.origin.temperature,
            seed=episode.origin.turn_seed(len(trajectory.turns)),
        )
        episode.turn_started = time.monotonic()
        self._writing[request.request_id] = episode
        self.sampler.submit(request)

    def _advance(self, episode: _Episode, completion: Completion) -> None:
        """Take a written turn: step its environment, and ask for the next one or end the episode."""
        trajectory = episode.trajectory
        action = Action(
            text=self.chat.decode_action(completion.token_ids),
            token_ids=completion.token_ids,
            logprobs=completion.logprobs,
            weights_version=completion.weights_version,
            finish=completion.finish,
        )
        result = episode.env.step(action)
        turn = Turn(episode.observation, action, result.decision, episode.observation_ids)
        trajectory.turns.append(turn)
        episode.prompt_ids += completion.token_ids
        episode.num_tokens += len(completion.token_ids)
        if set(completion.token_ids) & set(self.chat.banned_ids):
            turn.decision = Malformed("media_token", "the sampler let a banned token through")
            self._end(trajectory, StopReason.MALFORMED)
        elif result.observation is not None:
            episode.observation = result.observation
            self._ask(episode)
        elif result.stop_reason is StopReason.ERROR:
            self._fail(trajectory, f"took longer than env.max_seconds ({self.config.max_seconds:g})")
        else:
            assert result.stop_reason is not None
            self._end(trajectory, result.stop_reason)

    def _drop_overdue(self) -> None:
        """End episodes whose turn, or all of them, take too long: an engine may hang on one request."""
        now = time.monotonic()
        for request_id, episode in list(self._writing.items()):
            overdue = ""
            if now - episode.turn_started > self.config.max_turn_seconds:
                overdue = f"a turn took longer than env.max_turn_seconds ({self.config.max_turn_seconds:g})"
            elif episode.env.seconds > self.config.max_seconds:
                overdue = f"took longer than env.max_seconds ({self.config.max_seconds:g})"
            if overdue:
                self.sampler.abort([request_id])
                del self._writing[request_id]
                self._fail(episode.trajectory, overdue)

    def _end(self, trajectory: Trajectory, reason: StopReason) -> None:
        trajectory.stop_reason = reason
        self._ended.append(trajectory)

    def _fail(self, trajectory: Trajectory, error: str) -> None:
        trajectory.error = error
        self._end(trajectory, StopReason.ERROR)
