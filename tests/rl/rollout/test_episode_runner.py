"""Time limits, abandoned episodes and frames that cannot be read, with a sampler that writes only when told to."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from configs.load import load_config
from cot_data.datasets import load_tasks
from cot_data.traces.dialogue import to_trajectory
from cot_data.traces.write import write_trace
from env.errors import DataError
from env.frames import FrameCache
from env.store import TrajectoryStore
from env.types import FrameRef, Malformed, StopReason, Task, Trajectory, VideoRef
from policy import SHIPPED
from policy.engines.base import Completion, GenerationRequest
from policy.vlm.load import load_chat
from rl.rollout.episode_runner import READERS, EpisodeRunner
from rl.rollout.frame_readers import FrameReaders
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


class StuckFrames(FrameCache):
    """Frames of which those of videos named `stuck...` are never read."""

    def pixels(self, video: VideoRef, frame: FrameRef) -> np.ndarray:
        if video.path.startswith("stuck"):
            Event().wait()
        return super().pixels(video, frame)


def test_reading_counts_against_the_limit_and_is_left_behind(task: Task):
    """More reads are stuck than there are threads, and an episode that comes after them is still read."""
    rollout, sampler = make(max_seconds=1.0)
    rollout.frames = StuckFrames()
    for at in range(READERS + 1):
        stuck = replace(task, task_id=f"x/stuck{at}/0", video=replace(task.video, path=f"stuck{at}"))
        rollout.begin(RolloutRequest(stuck, 0, 0, 0, 1.0))
    ended: list[Trajectory] = []
    started = time.monotonic()
    while len(ended) <= READERS:
        ended += rollout.step()
    assert time.monotonic() - started < 10
    assert all(re.search(r"env\.max_seconds \(1\) while frames of stuck\d were read", item.error) for item in ended)
    rollout.begin(RolloutRequest(task, 0, 0, 0, 1.0))
    step_until_submitted(rollout, sampler, 1)
    assert list(sampler.requests) == [f"0/{task.task_id}/0#0"]


def test_a_process_ends_although_a_read_is_stuck():
    code = "from threading import Event\nfrom rl.rollout.frame_readers import FrameReaders\n"
    code += "FrameReaders(1).submit(Event().wait)\nprint('end')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "end\n"


def test_reads_are_cancelled_while_they_wait_and_replaced_while_they_run():
    readers: FrameReaders[int] = FrameReaders(1)
    gate = Event()
    stuck, waiting, last = (
        readers.submit(lambda: int(gate.wait())),
        readers.submit(lambda: 2),
        readers.submit(lambda: 3),
    )
    readers.abandon(waiting)
    assert waiting.cancelled()
    while not stuck.running():
        time.sleep(0.01)
    readers.abandon(stuck)
    assert last.result(timeout=10) == 3, "in a thread of its own"
    gate.set()
    assert stuck.result(timeout=10) == 1
    assert readers.submit(lambda: 4).result(timeout=10) == 4


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
