"""Bootstrap means against the normal approximation, and tables by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rl.evaluation.statistics import bootstrap_mean, paired_difference, slices_of, summarise


def test_interval_agrees_with_the_normal_approximation():
    values = np.random.default_rng(0).normal(2.0, 3.0, 400)
    mean, low, high = bootstrap_mean(values.tolist(), 4000, seed=1)
    half = 1.96 * values.std(ddof=1) / 20
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(2)
    hits = 0
    for seed in range(200):
        _, low, high = bootstrap_mean(rng.random(60).tolist(), 300, seed)
        hits += low <= 0.5 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_the_same_seed_gives_the_same_interval():
    values = [0.0, 1.0, 0.5, 0.25]
    assert bootstrap_mean(values, 100, seed=3) == bootstrap_mean(values, 100, seed=3)
    assert bootstrap_mean(values, 100, seed=3) != bootstrap_mean(values, 100, seed=4)


@pytest.mark.parametrize(("values", "expected"), [([0.7], (0.7, 0.7, 0.7)), ([2.0] * 9, (2.0, 2.0, 2.0))])
def test_values_without_spread(values: list[float], expected: tuple[float, float, float]):
    assert bootstrap_mean(values, 50, seed=0) == pytest.approx(expected)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_no_mean_is_an_error(values: list[float]):
    with pytest.raises(ValueError, match="a list of finite numbers"):
        bootstrap_mean(values, 10, seed=0)


def test_pairs_cancel_what_tasks_share():
    rng = np.random.default_rng(5)
    hard = rng.random(100)
    before, after = hard.tolist(), (hard + 0.1 + 0.01 * rng.standard_normal(100)).tolist()
    mean, low, high = paired_difference(before, after, 500, seed=0)
    assert 0.09 < low < mean < high < 0.11
    assert bootstrap_mean(before, 500, seed=0)[2] > bootstrap_mean(after, 500, seed=0)[1]  # unpaired, they overlap
    with pytest.raises(ValueError):
        paired_difference([1.0], [1.0, 2.0], 10, seed=0)


def test_a_table_leaves_out_what_does_not_apply():
    rows = [{"j": 0.5, "iou": None, "never": None}, {"j": 0.7, "iou": 0.2, "never": None}]
    table = summarise(rows, ["j", "iou", "never"], 200, seed=0)
    assert table["j"] == pytest.approx((0.6, 0.5, 0.7))
    assert table["iou"] == pytest.approx((0.2, 0.2, 0.2)) and table["never"] is None
    assert summarise([], ["j"], 10, seed=0) == {"j": None}


@pytest.mark.parametrize("name", ["all", "exploring pays", "exploring does not pay", "family all"])
def test_a_family_never_replaces_another_slice(name: str):
    rows = [{"family": name, "explore": "x"}, {"family": "motion", "explore": ""}, {"family": name, "explore": ""}]
    slices = slices_of(rows)
    assert slices.pop("all") == [0, 1, 2]
    assert slices.pop(f"family {name}") == [0, 2]
    assert slices == {"motion": [1], "exploring pays": [0], "exploring does not pay": [1, 2]}


def test_two_families_never_share_a_slice():
    names = ("all", "family all", "family family all", "exploring pays", "family", "motion")
    slices = slices_of([{"family": name, "explore": ""} for name in names])
    assert len(slices) == 1 + len(names)
