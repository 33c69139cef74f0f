"""Sampler and learner agree on every token while weights change, and any split of the learner's work gives the same."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from configs.schema import PolicyConfig, RunConfig
from env.frames import FrameCache, FrameCaches
from env.types import Trajectory
from policy.engines import build_sampler
from policy.engines.base import Sampler
from policy.videoseg.checkpoint import load_policy, save_policy
from policy.videoseg.model import SegPolicy
from policy.vlm.batch import Batch, collate, to_sequence
from rewards.base import final_answer
from rewards.mask import mask_iou
from rl.learner.learner import LocalLearner
from rl.rollout.episode_runner import EpisodeRunner
from rl.rollout.request import RolloutRequest
from tests.helpers.closeness import (
    BACKWARD,
    FORWARD,
    LOGPROBS,
    POLICY_GRADIENT,
    assert_close_tensors,
    assert_same_masks,
    largest_of,
)
from tests.helpers.rl_parts import Micro

GROUP = 8
RATE = 1024.0  # of descent: large, so that a difference of weights is not lost in the rounding of the weights

pytestmark = pytest.mark.timeout(1200)


@dataclass
class Bench:
    """One engine, and the frames that all learners read."""

    micro: Micro
    config: RunConfig
    sampler: Sampler
    frames: FrameCache

    def policy(self) -> SegPolicy:
        return load_policy(self.micro.policy)

    def learner(self, policy: SegPolicy, **changes: float) -> LocalLearner:
        config = replace(self.config, grpo=replace(self.config.grpo, **changes))
        return LocalLearner(policy, config, FrameCaches(self.frames, self.frames))

    def roll_out(self, policy: SegPolicy, version: int) -> list[Trajectory]:
        """Return eight trajectories, written by `policy`, of each task whose training trace has more than one turn."""
        self.sampler.load_weights(policy.export_weights(), version)
        rollout = EpisodeRunner(self.sampler, policy.chat, policy.layout, self.frames, self.config.env)
        wanted = [RolloutRequest(task, version, g, 0, 1.0) for task in self.micro.tasks()[::2] for g in range(GROUP)]
        by_id = {trajectory.trajectory_id: trajectory for trajectory in rollout.run(wanted)}
        return [by_id[item.trajectory_id] for item in wanted]


@pytest.fixture(scope="module")
def bench(micro: Micro, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    settings = [
        "grpo.lr=2.0e-4",
        "grpo.lr_decays=false",
        "grpo.kl_coef=0",
        "grpo.max_batch_tokens=4096",
        "env.max_seconds=3600",
    ]
    config = micro.config(tmp_path_factory.mktemp("exactness"), settings)
    sampler = build_sampler(config.sampler, micro.policy / "vlm", config.env.max_context_tokens, config.seed)
    yield Bench(micro, config, sampler, FrameCache())
    sampler.close()


@pytest.fixture(scope="module")
def rolled_out(bench: Bench) -> list[Trajectory]:
    """Return trajectories of the micro policy before any update. Tests score copies of them."""
    return bench.roll_out(bench.policy(), version=0)


def give_advantages(group: Sequence[Trajectory]) -> None:
    for number, trajectory in enumerate(group):
        assert all(turn.old_logprobs for turn in trajectory.turns), "a group is scored before it gets advantages"
        trajectory.advantage = (-1.0, 0.5, 1.5)[number % 3]


def in_groups(trajectories: Sequence[Trajectory]) -> list[Sequence[Trajectory]]:
    return [trajectories[start : start + GROUP] for start in range(0, len(trajectories), GROUP)]


def mismatch(trajectories: Sequence[Trajectory]) -> float:
    """Return the largest difference between the sampler's log-probs and the learner's."""
    return max(
        abs(old - sampled)
        for trajectory in trajectories
        for turn in trajectory.turns
        for old, sampled in zip(turn.old_logprobs, turn.action.logprobs, strict=True)
    )


def test_sampler_and_learner_agree_over_three_syncs(bench: Bench):
    policy = bench.policy()
    learner = bench.learner(policy)
    for version in range(4):
        trajectories = bench.roll_out(policy, version)
        deep = [trajectory for trajectory in trajectories if len(trajectory.turns) == 3]
        assert len(deep) >= 2
        assert all(turn.observation.frames for trajectory in deep for turn in trajectory.turns)
        assert {turn.action.weights_version for item in trajectories for turn in item.turns} == {version}
        before = policy.export_weights()
        before = {name: tensor.clone() for name, tensor in before.items()}
        metrics = learner.learn(in_groups(trajectories), give_advantages)
        assert mismatch(trajectories) <= 1e-4
        assert metrics["policy/ratio/mean"] == pytest.approx(1, abs=1e-6)
        assert metrics["policy/clipped/share"] == 0
        changed = {name for name, tensor in policy.export_weights().items() if not torch.equal(tensor, before[name])}
        assert sum("visual" in name for name in changed) > 10
        learner.fill_logprobs_and_masks(trajectories)
        assert mismatch(trajectories) > 5e-3, "the update must matter, or old weights would go unnoticed"


def test_new_logprobs_equal_old_ones_on_fresh_data(bench: Bench, rolled_out: list[Trajectory]):
    """Scored in batches without gradient, computed again one by one with gradient."""
    policy = bench.policy()
    trajectories = copy.deepcopy(rolled_out)
    bench.learner(policy).fill_logprobs_and_masks(trajectories)
    for trajectory in trajectories:
        sequence = to_sequence(trajectory, policy.chat, policy.layout)
        new_BL = policy(collate([sequence], policy.chat, policy.layout, bench.frames, policy.device)).logprobs_BL
        new = new_BL[0][torch.tensor(sequence.loss_mask)]
        old = torch.tensor([value for turn in trajectory.turns for value in turn.old_logprobs])
        assert new.tolist() == pytest.approx(old.tolist(), abs=LOGPROBS)


def test_a_group_alone_or_among_others_gets_the_same_numbers(bench: Bench, rolled_out: list[Trajectory]):
    learner = bench.learner(bench.policy(), max_batch_tokens=100_000)
    together, alone = copy.deepcopy(rolled_out), copy.deepcopy(rolled_out[:GROUP])
    learner.fill_logprobs_and_masks(together)
    learner.fill_logprobs_and_masks(alone)
    assert any(trajectory.masks for trajectory in alone)
    for ours, theirs in zip(alone, together, strict=False):
        assert ours.masks.keys() == theirs.masks.keys()
        assert_same_masks(ours.masks.values(), (theirs.masks[at] for at in ours.masks))
        for turn, other in zip(ours.turns, theirs.turns, strict=True):
            assert turn.old_logprobs == pytest.approx(other.old_logprobs, abs=LOGPROBS)
            assert turn.mask_logprob == pytest.approx(other.mask_logprob, abs=FORWARD)
            assert_same_masks([turn.key_mask], [other.key_mask])


def gradient(
    bench: Bench, rolled_out: list[Trajectory], policy: SegPolicy, **changes: float
) -> dict[str, torch.Tensor]:
    """Return the step's gradient by weight name: the change of one step of plain gradient descent, per RATE."""
    learner = bench.learner(policy, max_grad_norm=1e9, **changes)
    before = {name: tensor.detach().clone() for name, tensor in policy.named_parameters()}
    learner.optimizer.local = torch.optim.SGD(learner.optimizer.parameters, lr=RATE)
    learner.learn(in_groups(copy.deepcopy(rolled_out)), give_advantages)
    return {name: (before[name] - tensor.detach()) / RATE for name, tensor in policy.named_parameters()}


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_any_split_into_micro_batches_gives_the_same_gradient(bench: Bench, rolled_out: list[Trajectory]):
    eight = rolled_out[:GROUP]
    one_by_one = gradient(bench, eight, bench.policy(), max_batch_tokens=1)
    all_at_once = gradient(bench, eight, bench.policy(), max_batch_tokens=100_000)
    assert largest_of(all_at_once) > 1e-3
    assert_close_tensors(one_by_one, all_at_once, POLICY_GRADIENT)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_one_forward_for_score_and_gradient_gives_what_two_give(bench: Bench, rolled_out: list[Trajectory]):
    policy = bench.policy()
    with_grad, rows = [], []

    def record(_module: object, inputs: tuple[Batch], _output: object) -> None:
        with_grad.append(torch.is_grad_enabled())
        rows.append(len(inputs[0].sequences))

    policy.register_forward_hook(record)
    longest = max(len(to_sequence(item, policy.chat, policy.layout)) for item in rolled_out)
    whole = gradient(bench, rolled_out, policy, max_batch_tokens=GROUP * longest)
    assert all(with_grad) and sum(rows) == len(rolled_out), "each sequence is seen once"
    split = gradient(bench, rolled_out, bench.policy(), max_batch_tokens=GROUP * longest // 2)
    assert largest_of(whole) > 1e-3
    assert_close_tensors(split, whole, BACKWARD)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_an_episode_without_a_turn_gets_an_advantage_and_trains_nothing(bench: Bench, rolled_out: list[Trajectory]):
    """Its first observation did not fit the context."""
    mute = [replace(item, turns=[], trajectory_id=f"mute{at}") for at, item in enumerate(rolled_out[:2])]
    assigned: list[str] = []

    def assign_advantages(group: Sequence[Trajectory]) -> None:
        assigned.extend(item.trajectory_id for item in group)
        give_advantages(group)

    policy = bench.policy()
    metrics = bench.learner(policy).learn([[*mute, *copy.deepcopy(rolled_out[:GROUP])]], assign_advantages)
    assert metrics["optim/grad_norm"] > 0 and {"mute0", "mute1"} < set(assigned)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    metrics = bench.learner(policy).learn([mute], assign_advantages)
    assert metrics["optim/grad_norm"] == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in policy.state_dict().items())


def equal_advantages(group: Sequence[Trajectory]) -> None:
    for trajectory in group:
        trajectory.advantage = 0.0


def test_equal_rewards_without_other_terms_give_no_gradient(bench: Bench, rolled_out: list[Trajectory]):
    policy = bench.policy()
    learner = bench.learner(policy, kl_coef=0.0, mask_coef=0.0)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    metrics = learner.learn([copy.deepcopy(rolled_out[:GROUP])], equal_advantages)
    assert metrics["optim/grad_norm"] == 0
    assert metrics["loss/policy"] == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.state_dict().items())


def test_gold_trains_only_answers_that_found_the_target(bench: Bench, rolled_out: list[Trajectory]):
    answers = copy.deepcopy([item for item in rolled_out if final_answer(item)])
    bench.learner(bench.policy()).fill_logprobs_and_masks(answers)
    ious = [mask_iou(item) or 0.0 for item in answers]
    least = sorted(ious)[len(ious) // 2]
    found = [item for item, iou in zip(answers, ious, strict=True) if iou >= least]
    assert 0 < len(found) < len(answers)

    def summed(items: Sequence[Trajectory], least_iou: float) -> float:
        learner = bench.learner(bench.policy(), mask_coef=1.0, mask_least_iou=least_iou)
        metrics = learner.learn([copy.deepcopy(items)], equal_advantages)
        return metrics["loss/masks"] * sum(len(item.turns) + bench.config.grpo.mask_frames for item in items)

    assert summed(answers, least) == pytest.approx(summed(found, least), rel=1e-4)
    assert summed(answers, 1.0) == 0 < summed(found, least) < summed(answers, 0.0)


def test_saving_then_loading_is_the_identity(bench: Bench, tmp_path: Path):
    policy = bench.policy()
    save_policy(policy, tmp_path)
    loaded = load_policy(tmp_path).state_dict()
    assert loaded.keys() == policy.state_dict().keys()
    for name, tensor in policy.state_dict().items():
        assert torch.equal(loaded[name], tensor), name


def test_adapters_are_merged_into_the_saved_and_the_sampled_weights(
    bench: Bench, rolled_out: list[Trajectory], tmp_path: Path
):
    lora = PolicyConfig(**{**vars(bench.config.policy), "lora_rank": 4, "lora_alpha": 8})
    adapted = load_policy(bench.micro.policy, lora)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
    save_policy(adapted, tmp_path)
    merged = load_policy(tmp_path)
    assert not [name for name, _ in merged.named_parameters() if "lora" in name]
    trajectories = bench.roll_out(adapted, version=9)
    for policy in (adapted, merged):
        bench.learner(policy).fill_logprobs_and_masks(trajectories)
        assert mismatch(trajectories) <= 1e-4
    bench.learner(bench.policy()).fill_logprobs_and_masks(trajectories)
    assert mismatch(trajectories) > 1e-2, "the adapters must matter"
