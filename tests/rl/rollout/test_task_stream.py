"""The stream of tasks: every step gets each kind of task in proportion."""

from __future__ import annotations

from collections import Counter

from rl.rollout.task_stream import items_for_step


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
