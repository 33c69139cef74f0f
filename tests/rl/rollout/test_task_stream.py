"""What a step gets: its learning rate, and its share of each kind of task."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from configs.schema import GrpoConfig
from rl.learner.learner import lr_scale
from rl.rollout.task_stream import items_for_step


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


def test_every_step_gets_its_share_of_each_kind_and_an_epoch_takes_no_task_twice():
    kinds = ["a"] * 50 + ["b"] * 30 + ["c"] * 20
    steps = [items_for_step(range(100), kinds, 10, seed=3, step=step) for step in range(10)]
    assert sorted(at for step in steps for at in step) == list(range(100))
    for step in steps:
        counts = Counter(kinds[at] for at in step)
        assert abs(counts["a"] - 5) <= 1 and abs(counts["b"] - 3) <= 1 and abs(counts["c"] - 2) <= 1
    assert steps[0] == items_for_step(range(100), kinds, 10, seed=3, step=0)
    assert steps[0] != items_for_step(range(100), kinds, 10, seed=4, step=0)
    assert steps[0] != items_for_step(range(100), kinds, 10, seed=3, step=10), "the next epoch is shuffled anew"
