"""The learning rate of a step."""

from __future__ import annotations

import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from configs.schema import GrpoConfig
from rl.learner.optimizer import lr_scale


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
