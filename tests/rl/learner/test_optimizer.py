"""The learning rate of a step."""

from __future__ import annotations

import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from configs.schema import GrpoConfig
from rl.learner.optimizer import LearnerOptimizer, lr_scale


def test_the_rate_warms_up_and_stays() -> None:
    config = GrpoConfig(steps=10, warmup_steps=4)
    assert [lr_scale(config, step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert lr_scale(GrpoConfig(steps=10, warmup_steps=0), 0) == 1.0


def test_a_rate_that_decays_is_the_one_of_transformers() -> None:
    config = GrpoConfig(steps=10, warmup_steps=0, lr_decays=True)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    outside = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=0, num_training_steps=10)
    for step in range(10):
        assert lr_scale(config, step) == pytest.approx(outside.get_last_lr()[0])
        optimizer.step()
        outside.step()


def test_no_step_is_lost_at_either_end() -> None:
    config = GrpoConfig(steps=8, warmup_steps=3, lr_decays=True)
    scales = [lr_scale(config, step) for step in range(8)]
    assert min(scales) > 0 and max(scales) == scales[2] and scales[2:] == sorted(scales[2:], reverse=True)
    assert lr_scale(config, 8) == 0  # where the optimizer's schedule stands when the run is over


def steps_of(optimizer: LearnerOptimizer, count: int) -> list[float]:
    """Take optimizer steps with a constant gradient; return the learning rates that they were taken at."""
    rates = []
    for _ in range(count):
        rates.append(optimizer.local.param_groups[0]["lr"])
        for parameter in optimizer.parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    return rates


def test_a_resumed_optimizer_has_the_rate_and_decay_of_its_config() -> None:
    old = GrpoConfig(steps=10, warmup_steps=4, lr=1e-2, weight_decay=0.0)
    first = LearnerOptimizer({"w": torch.nn.Parameter(torch.ones(3))}, old)
    assert steps_of(first, 2) == pytest.approx([0.25e-2, 0.5e-2])
    for new in (old, GrpoConfig(steps=10, warmup_steps=4, lr=1.0, weight_decay=0.5)):
        weights = torch.nn.Parameter(first.parameters[0].detach().clone())
        resumed, uninterrupted = LearnerOptimizer({"w": weights}, new), new is old
        resumed.load(first.state())
        assert steps_of(resumed, 3) == pytest.approx([0.75 * new.lr, new.lr, new.lr])
        assert resumed.local.param_groups[0]["weight_decay"] == new.weight_decay
        assert resumed.state()["schedule"]["base_lrs"] == [new.lr]
        if uninterrupted:
            steps_of(first, 3)
            assert torch.equal(weights, first.parameters[0]), "unchanged settings give the same numbers"
            first = LearnerOptimizer({"w": torch.nn.Parameter(torch.ones(3))}, old)
            steps_of(first, 2)
