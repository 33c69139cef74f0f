"""Many episodes at once on one sampler: submit a turn, take it when it is written, step the environment, submit again.

It knows nothing of engines or Ray. An episode whose turn is written submits its next turn at once, so no episode waits
for the slowest.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, field
from functools import partial
from threading import Semaphore

import numpy as np

from configs.schema import EnvConfig
from env.episode import VideoSegEnv
from env.errors import VideoSegError
from env.types import Action, Malformed, Observation, StopReason, Trajectory, Turn
from policy.engines.base import Completion, GenerationRequest, Sampler
from policy.vlm.batch import FrameSource
from policy.vlm.chat_tokens import ChatTokens
from policy.vlm.patches import PatchLayout
from rl.rollout.frame_reading import FrameReading
from rl.rollout.request import RolloutRequest, RolloutStats

READERS = 4  # threads that decode and resize frames at a time
MAX_WAIT = 0.5  # seconds for which `step` waits for frames at most; a worker answers in between


@dataclass
class _Episode:
    """An episode in flight."""

    request: RolloutRequest
    env: VideoSegEnv
    trajectory: Trajectory
    observation: Observation
    prompt_ids: list[int] = field(default_factory=list)  # one image pad per frame
    num_tokens: int = 0  # of the prompt, with expanded images
    images: list[np.ndarray] = field(default_factory=list)
    observation_ids: tuple[int, ...] = ()
    reading: FrameReading | None = None  # of the newest observation's frames
    turn_started: float = 0.0  # when the turn was submitted, by `time.monotonic`

    @property
    def request_id(self) -> str:
        """The name of the current turn's generation request."""
        return f"{self.request.trajectory_id}#{len(self.trajectory.turns)}"


class EpisodeRunner:
    """Runs episodes on one sampler. Threads read frames while the sampler writes the turns of other episodes."""

    def __init__(self, sampler: Sampler, chat: ChatTokens, layout: PatchLayout, frames: FrameSource, config: EnvConfig):
        """Start with no episode in flight.

        Args:
            sampler: Writes the turns.
            chat: Token ids of observations and actions.
            layout: Number of tokens of an image.
            frames: Pixels of the frames that the policy is shown.
            config: Limits of episodes and turns.
        """
        self.sampler = sampler
        self.chat = chat
        self.layout = layout
        self.frames = frames
        self.config = config
        self._readers = Semaphore(READERS)
        self._reading: dict[str, _Episode] = {}  # by request id: frames are being read
        self._writing: dict[str, _Episode] = {}  # by request id: the sampler is writing the turn
        self._ended: list[Trajectory] = []
        self._stats = RolloutStats()

    def run(self, requests: Sequence[RolloutRequest]) -> Iterator[Trajectory]:
        """Yield trajectories as their episodes end. Data that cannot be read ends its own episode only."""
        for request in requests:
            self.begin(request)
        while self.busy:
            yield from self.step()

    @property
    def busy(self) -> bool:
        """Whether episodes are in flight, or have ended and are not yet returned by `step`."""
        return bool(self._reading or self._writing or self._ended)

    def begin(self, request: RolloutRequest) -> None:
        """Start an episode; `step` advances it."""
        trajectory = Trajectory(request.trajectory_id, request.task, request.step, request.sibling)
        try:
            env = VideoSegEnv(request.task, self.config)
            episode = _Episode(request, env, trajectory, env.first_observation())
        except VideoSegError as error:
            self._fail(trajectory, str(error))
            return
        self._observe(episode)

    def step(self) -> list[Trajectory]:
        """Let the sampler write some tokens; return the trajectories that have ended since the last call."""
        reading = {name: each.reading.frames for name, each in self._reading.items() if each.reading}
        if reading and not self._writing:
            left = min(self.config.max_seconds - each.env.seconds for each in self._reading.values())
            wait(reading.values(), timeout=min(max(left, 0.0), MAX_WAIT), return_when=FIRST_COMPLETED)
        for request_id in [name for name, frames in reading.items() if frames.done()]:
            self._submit(self._reading.pop(request_id))
        for completion in self.sampler.step():
            self._stats.add(completion)
            self._advance(self._writing.pop(completion.request_id), completion)
        self._drop_overdue()
        ended, self._ended = self._ended, []
        return ended

    def abandon(self) -> None:
        """Drop all episodes in flight."""
        self.sampler.abort(list(self._writing))
        for episode in self._reading.values():
            if episode.reading:
                episode.reading.leave()
        self._reading.clear()
        self._writing.clear()
        self._ended.clear()

    def take_stats(self) -> RolloutStats:
        """Return the sums since the last call."""
        stats, self._stats = self._stats, RolloutStats()
        return stats

    def _observe(self, episode: _Episode) -> None:
        """Append the newest observation and start to read its frames; end the episode if no token is left to write."""
        observation, trajectory = episode.observation, episode.trajectory
        ids = self.chat.observation_ids(observation, first=not trajectory.turns)
        image_tokens = [self.layout.num_tokens(frame.height, frame.width) for frame in observation.frames]
        episode.prompt_ids += ids
        episode.num_tokens += len(ids) + sum(image_tokens) - len(image_tokens)  # each image has one pad among `ids`
        if episode.num_tokens >= self.config.max_context_tokens:
            self._end(trajectory, StopReason.TOO_LONG)
            return
        episode.observation_ids = tuple(ids)
        episode.reading = FrameReading(partial(self._read, episode), self._readers)
        self._reading[episode.request_id] = episode

    def _read(self, episode: _Episode) -> list[np.ndarray]:
        video = episode.trajectory.task.video
        return [self.frames.pixels(video, frame) for frame in episode.observation.frames]

    def _submit(self, episode: _Episode) -> None:
        """Submit the next turn to the sampler, once its frames are read."""
        assert episode.reading is not None
        trajectory = episode.trajectory
        try:
            episode.images += episode.reading.frames.result()
        except VideoSegError as error:
            self._fail(trajectory, str(error))
            return
        left = self.config.max_context_tokens - episode.num_tokens
        request = GenerationRequest(
            request_id=episode.request_id,
            prompt_ids=tuple(episode.prompt_ids),
            images=tuple(episode.images),
            max_tokens=min(self.config.max_action_tokens, left),
            temperature=episode.request.temperature,
            seed=episode.request.turn_seed(len(trajectory.turns)),
        )
        episode.turn_started = time.monotonic()
        self._writing[request.request_id] = episode
        self.sampler.submit(request)

    def _advance(self, episode: _Episode, completion: Completion) -> None:
        """Step the environment with a written turn, and submit the next turn or end the episode."""
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
            self._observe(episode)
        elif result.stop_reason is StopReason.ERROR:
            self._fail(trajectory, f"took longer than env.max_seconds ({self.config.max_seconds:g})")
        else:
            assert result.stop_reason is not None
            self._end(trajectory, result.stop_reason)

    def _drop_overdue(self) -> None:
        """End episodes that take too long, in one turn or as a whole: an engine or a network drive may hang on one."""
        now = time.monotonic()
        for request_id, episode in list(self._reading.items()):
            if episode.reading and episode.env.seconds > self.config.max_seconds:
                episode.reading.leave()
                del self._reading[request_id]
                limit = f"env.max_seconds ({self.config.max_seconds:g})"
                self._fail(episode.trajectory, f"took longer than {limit}, while its frames were being read")
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
