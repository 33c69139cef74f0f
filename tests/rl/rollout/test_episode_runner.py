"""Time limits, abandoned episodes and frames that cannot be read, with a sampler that writes only when told to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.load import load_config
from cot_data.datasets import load_tasks
from env.errors import DataError
from env.frames import FrameCache
from env.types import FrameRef, StopReason, Task, VideoRef
from policy import SHIPPED
from policy.engines.base import Completion, GenerationRequest
from policy.vlm.load import load_chat
from rl.rollout.episode_runner import EpisodeRunner
from rl.rollout.request import RolloutRequest


class SlowSampler:
    """Keeps every request until `write` is called."""

    version = 3

    def __init__(self) -> None:
        self.requests: dict[str, GenerationRequest] = {}
        self.aborted: list[str] = []
        self._done: list[Completion] = []

    def submit(self, request: GenerationRequest) -> None:
        self.requests[request.request_id] = request

    def step(self) -> list[Completion]:
        done, self._done = self._done, []
        return done

    def abort(self, request_ids: Sequence[str]) -> None:
        self.aborted += request_ids
        for request_id in request_ids:
            del self.requests[request_id]

    def write(self, request_id: str, ids: Sequence[int]) -> None:
        del self.requests[request_id]
        self._done.append(Completion(request_id, tuple(ids), (0.0,) * len(ids), "stop", self.version, 40, 32))


class Frames(FrameCache):
    """Frames of which those of the video `broken` cannot be read."""

    def pixels(self, video: VideoRef, frame: FrameRef) -> np.ndarray:
        if video.path.endswith("broken"):
            raise DataError(video.path, "cannot be decoded")
        return super().pixels(video, frame)


@pytest.fixture(scope="module")
def task(shapes: Path) -> Task:
    return next(iter(load_tasks("mevis", shapes)))


def make(**env: float) -> tuple[EpisodeRunner, SlowSampler]:
    chat, layout = load_chat(SHIPPED / "vlm")
    sampler = SlowSampler()
    config = replace(load_config("tiny", []).env, **env)
    return EpisodeRunner(sampler, chat, layout, Frames(), config), sampler  # pyright: ignore[reportArgumentType]


def step_until_submitted(rollout: EpisodeRunner, sampler: SlowSampler, count: int) -> None:
    while len(sampler.requests) < count:
        assert rollout.step() == []


@pytest.mark.parametrize("limit", ["max_turn_seconds", "max_seconds"])
def test_a_turn_that_is_never_written_ends_its_episode_alone(task: Task, limit: str):
    rollout, sampler = make(**{limit: 0.5})
    rollout.begin(RolloutRequest(task, 0, 0, 0, 1.0))
    step_until_submitted(rollout, sampler, 1)
    ended = []
    while rollout.busy:
        ended += rollout.step()
    (trajectory,) = ended
    assert trajectory.stop_reason is StopReason.ERROR
    assert f"env.{limit} (0.5)" in trajectory.error
    assert sampler.aborted == ["0/" + task.task_id + "/0#0"]


def test_abandoned_episodes_are_aborted_in_the_sampler(task: Task):
    rollout, sampler = make()
    for sibling in range(3):
        rollout.begin(RolloutRequest(task, 0, sibling, 0, 1.0))
    step_until_submitted(rollout, sampler, 3)
    rollout.abandon()
    assert not rollout.busy
    assert not sampler.requests
    rollout.begin(RolloutRequest(task, 0, 0, 0, 1.0))  # the same name again
    step_until_submitted(rollout, sampler, 1)


def test_frames_that_cannot_be_read_end_only_their_own_episode(task: Task):
    rollout, sampler = make()
    broken = replace(task, task_id="x/broken/0", video=replace(task.video, path="broken"))
    for each in (broken, task):
        rollout.begin(RolloutRequest(each, 0, 0, 0, 1.0))
    ended = []
    while not ended or not sampler.requests:
        ended += rollout.step()
    (trajectory,) = ended
    assert trajectory.task is broken
    assert trajectory.error == "broken: cannot be decoded"
    assert list(sampler.requests) == [f"0/{task.task_id}/0#0"]


def test_turns_and_tokens_are_counted_since_the_last_call(task: Task):
    rollout, sampler = make()
    rollout.begin(RolloutRequest(task, 0, 0, 0, 1.0))
    step_until_submitted(rollout, sampler, 1)
    sampler.write(f"0/{task.task_id}/0#0", rollout.chat.encode("nonsense"))
    (trajectory,) = rollout.step()
    assert trajectory.stop_reason is StopReason.MALFORMED
    assert trajectory.turns[0].action.weights_version == 3
    stats = rollout.take_stats()
    assert (stats.turns, stats.prompt_tokens, stats.cached_tokens) == (1, 40, 32)
    assert stats.written_tokens == len(trajectory.turns[0].action.token_ids) > 0
    assert rollout.take_stats().turns == 0
