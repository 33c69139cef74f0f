"""A learner of two processes equals one of one: same gradients, same metrics, and states that both can load."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from configs.load import ConfigError
from configs.schema import RunConfig
from env.errors import CheckpointError, DataError, VideoSegError
from env.frames import FrameCache, FrameCaches
from env.store import TrajectoryStore
from env.types import Trajectory
from policy.videoseg.checkpoint import load_policy, save_policy
from rl.grpo import train
from rl.learner.advantage import assign_advantages
from rl.learner.data_parallel import DataParallelLearner, split_groups
from rl.learner.learner import Learner, LocalLearner, score_without_update
from rl.learner.rank_calls import RankError
from rl.runtime.checkpoint import load_state, save_checkpoint
from rl.runtime.cluster import connect_ray
from tests.helpers.closeness import BACKWARD, FORWARD, LOGPROBS, POLICY_GRADIENT, assert_close_tensors
from tests.helpers.learner_parts import recorded_group
from tests.helpers.rank_parts import dies, raises, raises_data_error, sleeps
from tests.helpers.rl_parts import Micro, read_lines

pytestmark = pytest.mark.timeout(600)

SETTINGS = ("grpo.lr=1.0e-3", "grpo.lr_decays=false", "grpo.warmup_steps=0", "grpo.max_batch_tokens=2048")
TWO = ("grpo.learner_ranks=2",)
WAYS = {
    "all weights, two updates": ("grpo.kl_coef=0.05", "grpo.updates=2", "grpo.clip_high=5", "grpo.clip_low=0.9"),
    "adapters, SAM 2 as it is": ("policy.lora_rank=4", "grpo.kl_coef=0.05", "grpo.freeze_sam=true"),
}


@dataclass
class Ranks:
    micro: Micro
    run_dir: Path

    def config(self, *overrides: str) -> RunConfig:
        return self.micro.config(self.run_dir, [*SETTINGS, *overrides])

    def local(self, config: RunConfig) -> LocalLearner:
        torch.manual_seed(0)  # of new adapters
        policy = load_policy(self.micro.policy, config.policy)
        return LocalLearner(policy, config, FrameCaches(FrameCache(), FrameCache()))

    @contextmanager
    def two(self, config: RunConfig) -> Iterator[DataParallelLearner]:
        learner = DataParallelLearner(self.local(config), config, self.micro.policy)
        try:
            yield learner
        finally:
            learner.close()

    def groups(self, config: RunConfig, count: int = 3) -> list[list[Trajectory]]:
        """Build groups of siblings of one to three turns, all groups of different lengths."""
        chat = self.local(config).policy.chat
        tasks = self.micro.tasks()[:count]
        return [recorded_group(task, number, config, chat) for number, task in enumerate(tasks)]


@pytest.fixture(scope="module")
def ranks(micro: Micro, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    run_dir = tmp_path_factory.mktemp("ranks")
    connect_ray(micro.config(run_dir, ["grpo.learner_ranks=2"]))
    yield Ranks(micro, run_dir)


def momenta(learner: Learner) -> dict[str, torch.Tensor]:
    """Return Adam's mean of the gradients, by number of the parameter."""
    return {str(at): state["exp_avg"] for at, state in learner.state()["optimizer"]["state"].items()}


def assert_same_groups(ours: Sequence[Sequence[Trajectory]], theirs: Sequence[Sequence[Trajectory]]) -> None:
    for group, others in zip(ours, theirs, strict=True):
        for item, other in zip(group, others, strict=True):
            assert item.trajectory_id == other.trajectory_id and item.masks == other.masks
            assert item.scores and other.scores and item.scores.total == pytest.approx(other.scores.total, abs=1e-5)
            assert item.advantage == pytest.approx(other.advantage, abs=1e-3)
            for turn, same in zip(item.turns, other.turns, strict=True):
                assert turn.old_logprobs == pytest.approx(same.old_logprobs, abs=LOGPROBS)
                assert turn.mask_logprob == pytest.approx(same.mask_logprob, abs=FORWARD)


@pytest.mark.parametrize("way", WAYS)
def test_two_ranks_learn_the_same_as_one(ranks: Ranks, way: str):
    """Two steps; in the second one rank has no group."""
    config = ranks.config(*WAYS[way])
    one = ranks.local(config)
    with ranks.two(ranks.config(*WAYS[way], *TWO)) as two:
        for num_groups in (3, 1):
            alone, shared = ranks.groups(config, num_groups), ranks.groups(config, num_groups)
            expected = one.learn(alone, partial(assign_advantages, config=config))
            metrics = two.learn(shared, partial(assign_advantages, config=config))
            assert metrics.pop("time/rank_wait_s") >= 0
            assert expected["optim/grad_norm"] > 1e-2
            assert metrics == pytest.approx(expected, rel=1e-3, abs=BACKWARD)
            assert_same_groups(shared, alone)
        assert_close_tensors(momenta(two), momenta(one), POLICY_GRADIENT)
        assert_close_tensors(two.state()["policy"], one.state()["policy"], BACKWARD)


@pytest.mark.parametrize("faulty", [1])  # a group of the other rank
def test_all_ranks_skip_alike_if_one_has_a_number_that_is_not_finite(
    ranks: Ranks, faulty: int, caplog: pytest.LogCaptureFixture
):
    """Groups are on both ranks; whichever has the fault, the next step is that of a run without the skipped one."""
    config = ranks.config("grpo.kl_coef=0.05")
    assign = partial(assign_advantages, config=config)
    one = ranks.local(config)
    with ranks.two(ranks.config("grpo.kl_coef=0.05", *TWO)) as two:
        before = {name: value.clone() for name, value in two.state()["policy"].items()}
        groups = ranks.groups(config)
        turn = groups[faulty][1].turns[0]
        turn.action = replace(turn.action, logprobs=(float("nan"), *turn.action.logprobs[1:]))
        metrics = two.learn(groups, assign)
        assert metrics["optim/skipped"] == 1 and "loss/policy" not in metrics
        assert f"{groups[faulty][1].trajectory_id}: weights of the sampler's log-probs" in caplog.text
        assert all(torch.equal(value, before[name]) for name, value in two.state()["policy"].items())
        one.optimizer.schedule.step()
        metrics = two.learn(ranks.groups(config), assign)
        expected = one.learn(ranks.groups(config), assign)
        assert metrics.pop("time/rank_wait_s") >= 0
        assert metrics == pytest.approx(expected, rel=1e-3, abs=BACKWARD) and metrics["optim/skipped"] == 0
        assert_close_tensors(two.state()["policy"], one.state()["policy"], BACKWARD)


@pytest.mark.parametrize("number", [1])  # a group of the other rank
def test_masks_that_cannot_be_read_fail_their_group_on_any_rank(ranks: Ranks, number: int):
    config = ranks.config("grpo.kl_coef=0.05", "grpo.updates=2")
    assign = partial(assign_advantages, config=config)
    one = ranks.local(config)
    with ranks.two(ranks.config("grpo.kl_coef=0.05", "grpo.updates=2", *TWO)) as two:
        groups = ranks.groups(config)
        for item in groups[number]:
            spoilt = {"size": [item.task.video.height, item.task.video.width], "counts": "zz"}
            item.task = replace(item.task, gold=(spoilt,) * len(item.task.gold))
        metrics = two.learn(groups, assign)
        expected = one.learn([group for at, group in enumerate(ranks.groups(config)) if at != number], assign)
        assert metrics.pop("time/rank_wait_s") >= 0
        assert metrics == pytest.approx(expected, rel=1e-3, abs=BACKWARD)
        assert_close_tensors(two.state()["policy"], one.state()["policy"], BACKWARD)
        assert [all(item.has_failed for item in group) for group in groups] == [at == number for at in range(3)]
        assert all(item.scores for at, group in enumerate(groups) if at != number for item in group)


def test_any_number_of_ranks_loads_what_another_number_has_saved(ranks: Ranks, tmp_path: Path):
    config = ranks.config("grpo.kl_coef=0.05")
    assign = partial(assign_advantages, config=config)
    one = ranks.local(config)
    with ranks.two(ranks.config("grpo.kl_coef=0.05", *TWO)) as two:
        two.learn(ranks.groups(config), assign)
        folder = save_checkpoint(tmp_path, 1, partial(save_policy, ranks.local(config).policy), two.state())
        one.load_state(load_state(folder), folder)
        two.learn(ranks.groups(config, 2), assign)  # away from the saved state
        two.load_state(load_state(folder), folder)
        for learner in (one, two):
            learner.learn(ranks.groups(config), assign)
        assert_close_tensors(two.state()["policy"], one.state()["policy"], BACKWARD)
        assert one.state()["schedule"] == two.state()["schedule"]

        scored, alone = ranks.groups(config), ranks.groups(config)
        score_without_update(two, scored, assign)
        score_without_update(one, alone, assign)
        assert_same_groups(scored, alone)


def test_a_rank_that_fails_ends_the_step_with_a_reason(ranks: Ranks, monkeypatch: pytest.MonkeyPatch):
    config = ranks.config(*TWO)
    with ranks.two(config) as two:
        with pytest.raises(DataError, match="video 3: cannot be read"):
            two.learn(ranks.groups(config), partial(raises_data_error, driver=os.getpid()))
        with pytest.raises(RankError, match=r"rank 1 .* failed; go on with --resume: [\s\S]*no such advantage") as lost:
            two.learn(ranks.groups(config), partial(raises, driver=os.getpid()))
        assert isinstance(lost.value, VideoSegError), "a command prints it without a traceback"
        monkeypatch.setattr("rl.learner.rank_calls.SECONDS", 2.0)
        monkeypatch.setattr("rl.learner.rank_calls.PATIENCE", 0)
        with pytest.raises(RankError, match=r"rank 1 .* has not answered for 2 s; go on with --resume"):
            two.learn(ranks.groups(config), partial(sleeps, driver=os.getpid()))
        monkeypatch.undo()
        with pytest.raises(RankError, match=r"rank 1 of the learner died; go on with --resume"):
            two.learn(ranks.groups(config), partial(dies, driver=os.getpid()))


@pytest.mark.parametrize(
    ("signal_", "message"),
    [(signal.SIGKILL, "rank 1 of the learner died"), (signal.SIGSTOP, "the learner's ranks did not come together")],
)
def test_a_rank_that_is_lost_during_a_collective_operation(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch, signal_: signal.Signals, message: str
):
    """Rank 0 learns of it from the process group, which names addresses, or from a time limit."""
    monkeypatch.setattr("rl.learner.collectives.SECONDS", 5.0)
    config = ranks.config(*TWO)
    with ranks.two(config) as two:
        pid: Any = ray.get(two._ranks[0].__ray_call__.remote(lambda _rank: os.getpid()))
        optimizer_step = two._local.optimizer_step

        def without_the_rank() -> dict[str, float]:
            os.kill(pid, signal_)
            return optimizer_step()

        two._local.optimizer_step = without_the_rank
        with pytest.raises(RankError, match=f"{message}; go on with --resume"):
            two.learn(ranks.groups(config), partial(assign_advantages, config=config))


def test_a_rank_that_cannot_start_names_the_reason(ranks: Ranks, tmp_path: Path):
    config = ranks.config(*TWO)
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        DataParallelLearner(ranks.local(config), config, tmp_path)


def test_more_ranks_than_the_cluster_has_cpus_for_are_refused(ranks: Ranks):
    config = ranks.config("grpo.learner_ranks=99", "sampler.load_seconds=1")
    refusal = r"98 ranks \(grpo.learner_ranks\) .* could not within 1 s"
    with pytest.raises(ConfigError, match=refusal), ranks.two(config):
        pass


def test_groups_are_divided_whole_and_evenly(ranks: Ranks):
    groups = ranks.groups(ranks.config(), 4)
    for count in (1, 2, 3, 6):
        parts = split_groups(groups, count)
        assert len(parts) == count
        given = [group[0].task.task_id for part in parts for group in part]
        assert sorted(given) == sorted(group[0].task.task_id for group in groups)
        assert all(group in groups for part in parts for group in part)
    assert [len(part) for part in split_groups(groups, 2)] == [2, 2]


def test_grpo_runs_on_two_ranks_and_resumes_on_one(ranks: Ranks, tmp_path: Path):
    settings = ("grpo.tasks_per_step=3", "grpo.group_size=3", "grpo.eval_every=1")
    train(ranks.micro.config(tmp_path, [*settings, "grpo.steps=1", *TWO]))
    train(ranks.micro.config(tmp_path, [*settings, "grpo.steps=2"]), resume=True)
    rows = read_lines(tmp_path / "metrics.jsonl")
    assert [(row["step"], "time/rank_wait_s" in row) for row in rows] == [(0, True), (1, False)]
    assert all(row["optim/grad_norm"] > 0 and "eval/jf/all" in row for row in rows)
    assert all(row["policy/mismatch/mean"] < 1e-4 for row in rows), "workers have the weights of rank 0"
    stored = list(TrajectoryStore(tmp_path / "trajectories").read())
    assert len(stored) == 2 * 9
    assert all(item.scores and all(turn.old_logprobs for turn in item.turns) for item in stored)
