"""A step with a number that is not finite is skipped, with its cause; none of it reaches weights, files or engines."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch

from configs.schema import RunConfig
from env.frames import FrameCache, FrameCaches
from env.store import TrajectoryStore
from env.types import Trajectory
from policy.videoseg.checkpoint import load_policy
from rl.learner.advantage import assign_advantages
from rl.learner.learner import LocalLearner
from rl.runtime.skipped_updates import NotFiniteError, SkippedUpdates
from tests.helpers.learner_parts import recorded_group
from tests.helpers.rl_parts import Micro

SETTINGS = ("grpo.lr=1.0e-3", "grpo.lr_decays=false", "grpo.warmup_steps=0", "grpo.kl_coef=0.05", "grpo.kl_form=k3")
NAN, INF = math.nan, math.inf


@dataclass
class Setup:
    micro: Micro
    config: RunConfig

    def learner(self) -> LocalLearner:
        frames = FrameCache()
        return LocalLearner(load_policy(self.micro.policy), self.config, FrameCaches(frames, frames))

    def groups(self) -> list[list[Trajectory]]:
        chat = load_policy(self.micro.policy).chat
        tasks = self.micro.tasks()[:2]
        return [recorded_group(task, number, self.config, chat) for number, task in enumerate(tasks)]

    def learn(self, learner: LocalLearner, groups: list[list[Trajectory]]) -> dict[str, float]:
        return learner.learn(groups, partial(assign_advantages, config=self.config))


@pytest.fixture
def setup(micro: Micro, tmp_path: Path, request: pytest.FixtureRequest) -> Setup:
    return Setup(micro, micro.config(tmp_path, [*SETTINGS, *getattr(request, "param", ())]))


def sampler_logprob(value: float) -> Callable[[LocalLearner, list[list[Trajectory]]], None]:
    def plant(learner: LocalLearner, groups: list[list[Trajectory]]) -> None:
        turn = groups[0][1].turns[0]
        turn.action = replace(turn.action, logprobs=(value, *turn.action.logprobs[1:]))

    return plant


def far_from_the_reference(learner: LocalLearner, groups: list[list[Trajectory]]) -> None:
    """Turn the preferences of the output head around: written tokens get log-probs of some -1000."""
    with torch.no_grad():
        learner.policy.vlm.model.language_model.norm.weight.mul_(-300)


def gradient(value: float) -> Callable[[LocalLearner, list[list[Trajectory]]], None]:
    def plant(learner: LocalLearner, groups: list[list[Trajectory]]) -> None:
        weight = learner.policy.vlm.model.language_model.layers[0].mlp.up_proj.weight
        handle = weight.register_hook(lambda grad: handle.remove() or torch.full_like(grad, value))

    return plant


def mask_logits(learner: LocalLearner, groups: list[list[Trajectory]]) -> None:
    """Plant a mask decoder that answers NaN once, so that the log-prob of a mask is not finite."""
    decode = learner.policy.decode_masks

    def broken(*args, **kwargs):
        learner.policy.decode_masks = decode
        logits_NHW, presence_N = decode(*args, **kwargs)
        logits_NHW = logits_NHW.clone()
        logits_NHW[0] = NAN
        return logits_NHW, presence_N

    learner.policy.decode_masks = broken


FAULTS = {
    "a sampler's NaN": (sampler_logprob(NAN), "/1: weights of the sampler's log-probs"),
    "k3 far from the reference": (far_from_the_reference, "KL (grpo.kl_form k3)"),
    "an infinite gradient": (gradient(INF), "the gradient of vlm.model.language_model.layers.0.mlp.up_proj.weight"),
    "a gradient that is NaN": (gradient(NAN), "the gradient of vlm.model.language_model.layers.0.mlp.up_proj.weight"),
    "mask logits that are NaN": (mask_logits, "log-probs of masks"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("setup", [(), ("grpo.max_batch_tokens=512",)], indirect=True)
def test_the_step_is_skipped_and_its_cause_is_told(
    setup: Setup, fault: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
):
    plant, cause = FAULTS[fault]
    learner, groups = setup.learner(), setup.groups()
    setup.learn(learner, setup.groups())  # so that the optimizer has a state
    plant(learner, groups)
    before = copy.deepcopy((learner.policy.state_dict(), learner.optimizer.state()["optimizer"]["state"]))
    metrics = setup.learn(learner, groups)
    assert metrics["optim/skipped"] == 1 and all(map(math.isfinite, metrics.values()))
    assert "loss/policy" not in metrics and "optim/grad_norm" not in metrics
    assert cause in caplog.text, caplog.text
    weights, state = learner.policy.state_dict(), learner.optimizer.state()["optimizer"]["state"]
    assert all(torch.equal(value, before[0][name]) for name, value in weights.items())
    assert all(torch.equal(value, before[1][at][name]) for at in state for name, value in state[at].items())
    json.dumps(metrics, allow_nan=False)
    if not fault.startswith("a sampler"):  # which the rollout refuses, so that it never comes here
        TrajectoryStore(tmp_path / "store").append([item for group in groups for item in group])
    if "reference" not in fault:
        after = setup.learn(learner, setup.groups())
        assert after["optim/skipped"] == 0 and after["optim/grad_norm"] > 0
        assert all(
            torch.isfinite(value).all() for value in learner.policy.state_dict().values() if value.is_floating_point()
        )


@pytest.mark.parametrize("setup", [("grpo.updates=2",)], indirect=True)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_skipped_update_does_not_spoil_the_next_one(setup: Setup, fault: str):
    """What failed is not part of the second update; a trajectory whose numbers stay bad makes that one skip too."""
    plant, _ = FAULTS[fault]
    learner, groups = setup.learner(), setup.groups()
    plant(learner, groups)
    metrics = setup.learn(learner, groups)
    is_lasting = "sampler" in fault or "reference" in fault
    assert metrics["optim/skipped"] == (2 if is_lasting else 1)
    assert all(torch.isfinite(value).all() for value in learner.policy.parameters())
    failed = [item for group in groups for item in group if item.has_failed]
    assert len(failed) == ("mask" in fault)
    assert all(item.scores for group in groups for item in group if not item.has_failed)


def test_the_schedule_goes_on_over_a_skipped_step(micro: Micro, tmp_path: Path):
    config = micro.config(tmp_path, ["grpo.lr=1.0e-3", "grpo.lr_decays=true", "grpo.steps=4", "grpo.warmup_steps=0"])
    setup = Setup(micro, config)
    learner, groups = setup.learner(), setup.groups()
    gradient(NAN)(learner, groups)
    rates = [setup.learn(learner, groups)["optim/learning_rate"] for _ in range(2)]
    assert rates == pytest.approx([0.75e-3, 0.5e-3]), "as of a run in which no step was skipped"


@pytest.mark.parametrize("setup", [("grpo.max_skipped_updates=1",)], indirect=True)
def test_too_many_in_a_row_end_the_run(setup: Setup):
    learner = setup.learner()
    for at in range(3):
        groups = setup.groups()
        if at != 1:
            sampler_logprob(NAN)(learner, groups)
        setup.learn(learner, groups)
    groups = setup.groups()
    sampler_logprob(NAN)(learner, groups)
    with pytest.raises(NotFiniteError, match=r"2 optimizer steps in a row were skipped, more than grpo\.max_sk"):
        setup.learn(learner, groups)


def test_a_weight_that_is_not_finite_is_never_sent(setup: Setup):
    learner = setup.learner()
    learner.weight_update()
    with torch.no_grad():
        learner.policy.vlm.model.language_model.norm.weight[3] = INF
    with pytest.raises(NotFiniteError, match=r"weight model\.language_model\.norm\.weight is not finite; go on with"):
        learner.weight_update()


def test_a_metric_that_is_not_finite_is_absent(setup: Setup):
    """A sampler that is far off has weight 0: the loss is finite, the logarithm of the weight is not."""
    learner, groups = setup.learner(), setup.groups()
    sampler_logprob(500.0)(learner, groups)
    metrics = setup.learn(learner, groups)
    assert "policy/mismatch/mean" not in metrics
    assert metrics["optim/skipped"] == 0 and all(map(math.isfinite, metrics.values()))


def test_causes_are_counted_and_told_shortly(caplog: pytest.LogCaptureFixture):
    skipped = SkippedUpdates(1, "grpo.max_skipped_updates")
    skipped.record([])
    skipped.record([f"t{at}: KL\x1b[31m" for at in range(9)])
    assert "t0: KL; t1: KL; t2: KL; and 6 more" in caplog.text and "\x1b" not in caplog.text
    skipped.record([])
    skipped.record(["t: KL"])
    assert skipped.total == 2
    with pytest.raises(NotFiniteError, match="in the last one: t9: KL"):
        skipped.record(["t9: KL"])
