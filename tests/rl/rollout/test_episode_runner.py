"""Time limits, abandoned episodes and frames that cannot be read, with a sampler that writes only when told to."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.load import load_config
from cot_data.datasets import load_tasks
from cot_data.traces.dialogue import to_trajectory
from cot_data.traces.write import write_trace
from env.actions import format_decision
from env.errors import DataError
from env.frames import FrameCache
from env.store import TrajectoryStore
from env.types import FrameRef, Interval, Malformed, Select, StopReason, Task, VideoRef
from policy import SHIPPED
from policy.engines.base import Completion, GenerationRequest
from policy.vlm.load import load_chat
from rl.rollout.episode_runner import READERS, EpisodeRunner
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


class BlockedFrames(FrameCache):
    """Frames of which those of the video `blocked` are never there: reading them opens a pipe without a writer."""

    def __init__(self, pipe: Path):
        super().__init__()
        self.pipe = pipe
        self.num_waiting = 0

    def pixels(self, video: VideoRef, frame: FrameRef) -> np.ndarray:
        if video.path.endswith("blocked"):
            self.num_waiting += 1
            self.pipe.read_bytes()
        return super().pixels(video, frame)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    yield path
    for _ in range(READERS + 2):  # let the threads end
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return
        time.sleep(0.01)


def test_frames_that_never_come_end_their_episode_in_time(task: Task, pipe: Path):
    rollout, sampler = make(max_seconds=0.6)
    rollout.frames = BlockedFrames(pipe)
    blocked = replace(task, task_id="x/blocked/0", video=replace(task.video, path="blocked"))
    rollout.begin(RolloutRequest(blocked, 0, 0, 0, 1.0))
    started, ended = time.monotonic(), []
    while rollout.busy:
        before = time.monotonic()
        ended += rollout.step()
        assert time.monotonic() - before < 1.0, "a worker answers in between"
    assert 0.5 < time.monotonic() - started < 2.0
    (trajectory,) = ended
    assert trajectory.stop_reason is StopReason.ERROR
    assert trajectory.error == "took longer than env.max_seconds (0.6) while frames of blocked were read"
    assert not sampler.requests and not sampler.aborted


def test_readings_left_behind_do_not_keep_others_waiting(task: Task, pipe: Path):
    """All threads are blocked; those of the next episodes are not."""
    rollout, sampler = make(max_seconds=0.6)
    frames = rollout.frames = BlockedFrames(pipe)
    blocked = replace(task, task_id="x/blocked/0", video=replace(task.video, path="blocked"))
    for sibling in range(READERS + 2):
        rollout.begin(RolloutRequest(blocked, 0, sibling, 0, 1.0))
    ended = []
    while rollout.busy:
        ended += rollout.step()
    assert [item.stop_reason for item in ended] == [StopReason.ERROR] * (READERS + 2)
    assert frames.num_waiting >= READERS
    for sibling in range(READERS + 2):
        rollout.begin(RolloutRequest(task, 0, sibling, 0, 1.0))
    step_until_submitted(rollout, sampler, READERS + 2)


def test_blocked_frames_of_a_later_turn_count_too(task: Task, pipe: Path):
    rollout, sampler = make(max_seconds=1.5)
    frames = rollout.frames = BlockedFrames(pipe)
    rollout.begin(RolloutRequest(task, 0, 0, 0, 1.0))
    step_until_submitted(rollout, sampler, 1)
    select = Select(Interval(0, task.video.num_frames), 1)
    frames.pixels = lambda video, frame: frames.pipe.read_bytes()  # pyright: ignore[reportAttributeAccessIssue]
    text = f"<think>so</think>\n{format_decision(select)}"
    sampler.write(f"0/{task.task_id}/0#0", rollout.chat.encode(text))
    ended = []
    while rollout.busy:
        ended += rollout.step()
    assert [(item.stop_reason, len(item.turns)) for item in ended] == [(StopReason.ERROR, 1)]


def test_abandoned_readings_free_their_slots(task: Task, pipe: Path):
    rollout, sampler = make()
    rollout.frames = BlockedFrames(pipe)
    blocked = replace(task, task_id="x/blocked/0", video=replace(task.video, path="blocked"))
    for sibling in range(READERS):
        rollout.begin(RolloutRequest(blocked, 0, sibling, 0, 1.0))
    time.sleep(0.1)
    rollout.abandon()
    assert not rollout.busy
    rollout.begin(RolloutRequest(task, 0, 0, 0, 1.0))
    step_until_submitted(rollout, sampler, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logprobs_that_are_not_finite_fail_the_episode(task: Task, value: float, tmp_path: Path):
    rollout, sampler = make()
    rollout.begin(RolloutRequest(task, 0, 0, 0, 1.0))
    step_until_submitted(rollout, sampler, 1)
    ids = tuple(rollout.chat.encode("nonsense"))
    del sampler.requests[f"0/{task.task_id}/0#0"]
    logprobs = (0.0,) * (len(ids) - 1) + (value,)
    sampler._done.append(Completion(f"0/{task.task_id}/0#0", ids, logprobs, "stop", 3))
    (trajectory,) = rollout.step()
    assert trajectory.has_failed, "nonsense of a broken engine is not the policy's mistake"
    assert trajectory.error == "the engine's log-probs are not finite: its weights (version 3) are bad"
    TrajectoryStore(tmp_path).append([trajectory])


def test_a_banned_token_ends_the_episode_as_malformed(task: Task):
    """Its text is a well-formed answer otherwise."""
    rollout, sampler = make()
    rollout.begin(RolloutRequest(task, 0, 0, 0, 1.0))
    step_until_submitted(rollout, sampler, 1)
    record = write_trace(task, rollout.config, np.random.default_rng(0), rollout.config.prompt)
    text = to_trajectory(record, task, rollout.config).turns[-1].action.text
    banned = rollout.chat.banned_ids[0]
    sampler.write(f"0/{task.task_id}/0#0", [*rollout.chat.action_ids(text)[:-1], banned, rollout.chat.end_id])
    (trajectory,) = rollout.step()
    assert trajectory.stop_reason is StopReason.MALFORMED
    decision = trajectory.decision
    assert isinstance(decision, Malformed) and decision.reason == "media_token"


def test_a_process_ends_although_a_read_is_stuck():
    code = "from threading import Event, Semaphore\nfrom rl.rollout.frame_reading import FrameReading\n"
    code += "FrameReading(lambda: Event().wait(), Semaphore(1))\nprint('end')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "end\n"
