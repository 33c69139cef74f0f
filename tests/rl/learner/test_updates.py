"""Several updates of one rollout, and the share of masks in the gradient.

The shipped policy is used, because its masks depend on their prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.load import ConfigError, load_config
from configs.schema import GrpoConfig, RunConfig
from cot_data.datasets import load_tasks
from cot_data.traces.dialogue import to_trajectory
from cot_data.traces.write import write_trace
from env.frames import FrameCache, FrameCaches
from env.types import Action, Answer, Select, Task, Trajectory
from policy import SHIPPED
from policy.videoseg.checkpoint import load_policy
from policy.videoseg.model import SegPolicy
from policy.vlm.batch import collate, to_sequence
from rl.learner import objective
from rl.learner.calibration import binarise_grid, loglik
from rl.learner.gradient_norms import backward, with_shares
from rl.learner.learner import LocalLearner
from rl.learner.policy_loss import Denominators, LossInputs, grpo_loss
from tests.helpers.closeness import FORWARD, assert_close_to_scale
from tests.helpers.rl_parts import write_shapes

FRAMES = FrameCache()
WEIGHT = 0.7
SETTINGS = (
    "grpo.kl_coef=0",
    "grpo.truncate_weight=0",
    "grpo.mask_coef=0",
    f"grpo.calibration_coef={WEIGHT}",
    "grpo.lr=1.0e-3",
    "grpo.clip_high=5",
    "grpo.clip_low=0.9",
    "grpo.max_batch_tokens=100000",
    "grpo.mask_least_iou=0",
    "grpo.freeze_sam=false",
    "grpo.warmup_steps=0",
    "grpo.lr_decays=false",
)


@dataclass
class Case:
    """Two siblings that wrote the same, so that they form one micro-batch, and the policy that scores them."""

    task: Task

    def config(self, *overrides: str) -> RunConfig:
        return load_config("tiny", [*SETTINGS, *overrides])

    def learner(self, policy: SegPolicy, *overrides: str) -> LocalLearner:
        return LocalLearner(policy, self.config(*overrides), FrameCaches(FRAMES, FRAMES))

    def policy(self) -> SegPolicy:
        return load_policy(SHIPPED)

    def group(self) -> list[Trajectory]:
        chat, config = self.policy().chat, self.config().env
        record = write_trace(self.task, config, np.random.default_rng(0), "brief")
        group = [to_trajectory(record, self.task, config) for _ in range(2)]
        for turn in (turn for item in group for turn in item.turns):
            ids = tuple(chat.action_ids(turn.action.text))
            turn.action = Action(turn.action.text, ids, (-1.0,) * len(ids), weights_version=0)
        return group


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    tasks = load_tasks("mevis", write_shapes(tmp_path_factory.mktemp("updates"), videos=1))
    return Case(tasks[1])  # the masks of this task are the least certain


def assign_advantages(group: Sequence[Trajectory]) -> None:
    for trajectory, advantage in zip(group, (1.0, -0.5), strict=True):
        trajectory.advantage = advantage


def key_logits(policy: SegPolicy, item: Trajectory) -> Tensor:
    """Return the mask logits [K, H, W] of every turn's [SEG] on the key frame that the turn names."""
    sequence = to_sequence(item, policy.chat, policy.layout)
    output = policy(collate([sequence], policy.chat, policy.layout, FRAMES, policy.device))
    targets = []
    for row, turn in enumerate(sequence.seg_turns):
        decision = item.turns[turn].decision
        assert isinstance(decision, Select | Answer)
        targets.append((row, item.task.video, decision.key_frame))
    return policy.decode_masks(output.prompts_MC, targets, FRAMES)[0].detach()


def test_the_second_update_is_compared_with_the_rollout(case: Case, monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[LossInputs, dict[str, float]]] = []

    def recording(inputs: LossInputs, config: GrpoConfig, whole_step: Denominators):
        loss, metrics = grpo_loss(inputs, config, whole_step)
        seen.append((inputs, metrics))
        return loss, metrics

    monkeypatch.setattr(objective, "grpo_loss", recording)
    group, policy = case.group(), case.policy()
    grids_KHW = binarise_grid(key_logits(policy, group[0]), 0.0)
    metrics = case.learner(policy, "grpo.updates=2").learn([group], assign_advantages)
    assert len(seen) == 2, "one micro-batch per update"
    (first, first_metrics), (second, second_metrics) = seen
    assert first.mask_term_BL is not None and first.old_mask_term_BL is not None
    assert second.mask_term_BL is not None and second.old_mask_term_BL is not None

    # The first update is on-policy to the last bit.
    mask_BL = first.mask_BL
    assert torch.equal(first.mask_term_BL, first.old_mask_term_BL) and first.mask_term_BL.any()
    assert torch.equal(first.logprobs_BL[mask_BL], first.old_logprobs_BL[mask_BL])
    assert first_metrics["policy/ratio/mean"] == 1.0 and first_metrics["policy/clipped/share"] == 0.0

    # The second is compared with the same stored numbers: those of the rollout, by turn.
    assert torch.equal(second.old_mask_term_BL, first.old_mask_term_BL)
    assert torch.equal(second.old_logprobs_BL, first.old_logprobs_BL)
    at_seg = list(to_sequence(group[0], policy.chat, policy.layout).seg_positions)
    stored = [turn.mask_logprob for turn in group[0].turns]
    assert second.old_mask_term_BL[0, at_seg].tolist() == pytest.approx([WEIGHT * (value or 0.0) for value in stored])

    # Its new mask term is that of the weights after one update, of the mask that the rollout decoded.
    updated, again = case.policy(), case.group()
    case.learner(updated, "grpo.updates=1").learn([again], assign_advantages)
    expected_K = WEIGHT * loglik(key_logits(updated, again[0]), grids_KHW)
    assert_close_to_scale(second.mask_term_BL[0, at_seg], expected_K, FORWARD)
    moved_K = (expected_K - second.old_mask_term_BL[0, at_seg]).abs()
    assert moved_K.max() > 1e-4, "the update must matter"

    text_BL = (second.logprobs_BL - second.old_logprobs_BL).detach()
    ratio_BL = (text_BL + second.mask_term_BL.detach() - second.old_mask_term_BL).exp()
    assert second_metrics["policy/ratio/mean"] == pytest.approx(ratio_BL[mask_BL].mean().item(), rel=1e-5)
    assert metrics["policy/ratio/mean"] == pytest.approx(second_metrics["policy/ratio/mean"]), (
        "the metrics are those of the last update"
    )


def test_updates_of_one_rollout_share_a_learning_rate(case: Case):
    settings = ("grpo.updates=2", "grpo.steps=2", "grpo.lr_decays=true")
    learner = case.learner(case.policy(), *settings)
    rates = [learner.learn([case.group()], assign_advantages)["optim/learning_rate"] for _ in range(2)]
    assert rates == pytest.approx([0.5e-3, 0.0]), "as after each of two steps with one update"


def test_shares_by_hand():
    """Gradients: (3, 4) of the text, (2, 0) of the calibration on a [SEG] state, (-2, 1) of the mask loss on it."""
    text_PD, seg_MD = torch.zeros(1, 2, requires_grad=True), torch.zeros(1, 2, requires_grad=True)
    text_states_PD, seg_states_MD = 1 * text_PD, 1 * seg_MD
    policy_loss = 3 * text_states_PD[0, 0] + 4 * text_states_PD[0, 1] + 2 * seg_states_MD[0, 0]
    squared = backward(policy_loss, -2 * seg_states_MD[0, 0] + seg_states_MD[0, 1], text_states_PD, seg_states_MD)
    assert text_PD.grad is not None and seg_MD.grad is not None
    assert text_PD.grad.tolist() == [[3, 4]] and seg_MD.grad.tolist() == [[0, 1]], (
        "the calibration is back-propagated once"
    )
    metrics = with_shares({"loss/policy": 1.0} | squared)
    shares = {"grad/masks/share": 1 / (5 + 1), "grad/calibration/share": 2 / (5 + 2)}
    assert metrics == pytest.approx({"loss/policy": 1.0} | shares)
    assert set(with_shares({}).values()) == {0.0}


def test_shares_of_a_learner(case: Case):
    def shares(*overrides: str) -> tuple[float, float]:
        metrics = case.learner(case.policy(), *overrides).learn([case.group()], assign_advantages)
        return metrics["grad/masks/share"], metrics["grad/calibration/share"]

    masks, calibration = shares()
    assert masks == pytest.approx(calibration) and 0 < calibration < 1, (
        "without a mask loss only the calibration comes through masks"
    )
    both, calibration_of_both = shares("grpo.mask_coef=1")
    assert calibration_of_both == pytest.approx(calibration) and both > masks
    for off in ("grpo.calibration=none", "grpo.calibration_coef=0", "grpo.calibration_detach=true"):
        assert shares(off) == (0.0, 0.0)
    masks, calibration = shares("grpo.calibration=none", "grpo.mask_coef=1")
    assert masks > 0 and calibration == 0


def test_an_unknown_name_is_refused_before_the_first_rollout(case: Case):
    for key in ("loss", "kl_form", "truncate_level", "calibration"):
        with pytest.raises(ConfigError, match=rf"grpo\.{key}: unknown 'k9'; known are \w+, "):
            case.learner(case.policy(), f"grpo.{key}=k9")
