"""Data that cannot be read fails the trajectories that need it; the step is that of the others, to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.schema import RunConfig
from cot_data.datasets import load_tasks
from env.errors import DataError
from env.frames import FrameCache, FrameCaches
from env.types import Trajectory, VideoRef
from policy.videoseg.checkpoint import load_policy
from rl.learner.advantage import assign_advantages
from rl.learner.learner import LocalLearner, score_without_update
from rl.learner.without_failed import without_unreadable
from rl.rollout.dynamic_sampling import FailedStepError, StepGroups, valid_groups
from tests.helpers.damaged_data import copied, cut_frame, frame_only_tracked
from tests.helpers.learner_parts import recorded_group
from tests.helpers.rl_parts import Micro

SETTINGS = ("grpo.lr=1.0e-3", "grpo.lr_decays=false", "grpo.warmup_steps=0", "grpo.max_batch_tokens=2048")


@dataclass
class Setup:
    """A copy of the data with one group of a video that will be damaged and one of a video that stays whole."""

    micro: Micro
    data: Path
    config: RunConfig

    def learner(self, frames: FrameCache | None = None) -> LocalLearner:
        frames = frames or FrameCache()
        return LocalLearner(load_policy(self.micro.policy), self.config, FrameCaches(frames, frames))

    def groups(self) -> list[list[Trajectory]]:
        chat = load_policy(self.micro.policy).chat
        tasks = list(load_tasks("mevis", self.micro.data))
        first = [replace(tasks[0], video=replace(tasks[0].video, root=str(self.data))), tasks[-1]]
        return [recorded_group(task, number, self.config, chat) for number, task in enumerate(first)]


@pytest.fixture
def setup(micro: Micro, tmp_path: Path, request: pytest.FixtureRequest) -> Setup:
    more = getattr(request, "param", ())
    return Setup(micro, copied(micro.data, tmp_path / "data"), micro.config(tmp_path / "run", [*SETTINGS, *more]))


def shown_frame(setup: Setup) -> None:
    cut_frame(setup.data, 0, 0)


def missing_frame(setup: Setup) -> None:
    for path in (setup.data / "JPEGImages").glob("*/*.jpg"):
        path.unlink()


def damaged_masks(groups: Sequence[Sequence[Trajectory]]) -> None:
    for trajectory in groups[0]:
        task = trajectory.task
        spoilt = {"size": [task.video.height, task.video.width], "counts": "zz"}
        trajectory.task = replace(task, gold=(spoilt,) * len(task.gold))


def assert_learns_without(setup: Setup, groups: list[list[Trajectory]], reason: str) -> None:
    """Learn from the groups, of which the first cannot be read, and from the second alone: it is the same."""
    assign = partial(assign_advantages, config=setup.config)
    damaged, clean = setup.learner(), setup.learner()
    metrics = damaged.learn(groups, assign)
    expected = clean.learn(setup.groups()[1:], assign)
    assert metrics == expected and metrics["optim/grad_norm"] > 1e-2
    state, other = damaged.policy.state_dict(), clean.policy.state_dict()
    assert all(torch.equal(state[name], other[name]) for name in state)
    assert all(item.has_failed and reason in item.error and item.advantage is None for item in groups[0])
    assert all(item.scores and not item.has_failed for item in groups[1])


@pytest.mark.parametrize("setup", [(), ("grpo.max_batch_tokens=512",), ("grpo.updates=2",)], indirect=True)
@pytest.mark.parametrize("damage", [shown_frame, missing_frame])
def test_frames_that_cannot_be_read(setup: Setup, damage: Callable[[Setup], None]):
    groups = setup.groups()
    damage(setup)
    assert_learns_without(setup, groups, ".jpg")


def test_gold_masks_that_cannot_be_read(setup: Setup):
    groups = setup.groups()
    damaged_masks(groups)
    assert_learns_without(setup, groups, "frame")


@pytest.mark.parametrize("setup", [("grpo.masks=tracked",)], indirect=True)
def test_a_frame_that_only_tracking_reads(setup: Setup):
    groups = setup.groups()
    cut_frame(setup.data, 0, frame_only_tracked(groups[0][0].task.video.num_frames))
    assert_learns_without(setup, groups, ".jpg")


@pytest.mark.parametrize("setup", [("env.zoom_frames=9",)], indirect=True)
def test_one_sibling_alone_may_fail(setup: Setup):
    """Only the first sibling zooms in, so only it needs a frame that its zoom shows."""
    groups = setup.groups()
    shown = [{f.frame_idx for turn in item.turns for f in turn.observation.frames} for item in groups[0]]
    assert len(groups[0][0].turns) > 1
    others = set[int]().union(*shown[1:])
    only = sorted(shown[0] - others)
    assert only, "the zoom shows a frame of its own"
    cut_frame(setup.data, 0, only[0])
    setup.learner().learn(groups, partial(assign_advantages, config=setup.config))
    assert groups[0][0].has_failed
    assert all(item.scores for item in groups[0] if not item.has_failed)


class OnceBroken(FrameCache):
    """Frames of which the first read fails, as on a network drive that had a pause."""

    num_failures = 1

    def full(self, video: VideoRef, frame_idx: int) -> np.ndarray:
        if self.num_failures:
            self.num_failures -= 1
            raise DataError(video.path, "connection timed out")
        return super().full(video, frame_idx)


def test_a_pause_of_the_disk_fails_nothing(setup: Setup):
    assign = partial(assign_advantages, config=setup.config)
    groups = setup.groups()
    assert setup.learner(OnceBroken()).learn(groups, assign) == setup.learner().learn(setup.groups(), assign)
    assert not any(item.has_failed for group in groups for item in group)


def test_an_error_that_no_trajectory_explains_is_raised():
    def run() -> None:
        raise DataError("video 3", "cannot be read")

    with pytest.raises(DataError, match="video 3: cannot be read"):
        without_unreadable(run, lambda: 0)


def test_scores_without_an_update(setup: Setup):
    groups, masks = setup.groups(), setup.groups()
    cut_frame(setup.data, 0, 0)
    assign = partial(assign_advantages, config=setup.config)
    score_without_update(setup.learner(), groups, assign)
    assert all(item.has_failed for item in groups[0]) and all(item.scores for item in groups[1])
    shown_again = setup.micro.data / "JPEGImages"
    for path in (setup.data / "JPEGImages").rglob("*.jpg"):
        path.write_bytes((shown_again / path.relative_to(setup.data / "JPEGImages")).read_bytes())
    damaged_masks(masks)
    score_without_update(setup.learner(), masks, assign)
    assert all(item.has_failed and "counts" in item.error for item in masks[0]) and all(i.scores for i in masks[1])


def test_where_nothing_can_be_read_the_step_ends_the_run(setup: Setup):
    groups = setup.groups()[:1]
    missing_frame(setup)
    learner = setup.learner()
    before = {name: value.clone() for name, value in learner.policy.state_dict().items()}
    assert learner.learn(groups, partial(assign_advantages, config=setup.config)) == {}
    assert all(torch.equal(value, before[name]) for name, value in learner.policy.state_dict().items())
    step_groups = StepGroups(groups, valid_groups(setup.groups(), 2), groups, 1)
    with pytest.raises(FailedStepError, match=r"every group failed; most frequent reasons: .*\.jpg.*--resume"):
        step_groups.after_learning(setup.config.grpo)
