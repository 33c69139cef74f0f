"""Which training curves the report draws, from the records of `metrics.jsonl`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rl.report.charts import Chart, make_chart
from rl.report.metric_rows import Evaluated


def cold_start_charts(stages: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> list[Chart]:
    """Return the charts of the cold start; `stages` are (name, records of its metrics.jsonl) in order."""
    found = []
    j_keys = {"first frame": "masks/key_j/mean", "tracked": "masks/tracked_j/mean"}
    for name, records in stages:
        found += [
            make_chart(f"{name}: token loss", records, {"tokens": "loss/tokens"}),
            make_chart(f"{name}: mask losses", records, {"masks": "loss/masks", "pull to captions": "loss/align"}),
            make_chart(f"{name}: J of training clips", records, j_keys),
        ]
    return [chart for chart in found if chart is not None]


RENAMED = {"heldout/": "eval/", "reward/turn_price/": "reward/turn_cost/"}  # beginnings of metric names
# Label of a line -> suffix of its metric, by why exploring pays.
LABELS = {"all tasks": "", "event between frames": "_brief_event", "fine mark": "_fine_mark", "neither": "_plain"}
HELD_OUT = ("all", "exploring pays", "exploring does not pay")


def grpo_charts(
    records: Sequence[Mapping[str, Any]], rewards: Sequence[str], before: Evaluated, after: Evaluated
) -> list[Chart]:
    """Return the charts of GRPO.

    Args:
        records: Of metrics.jsonl, at least one.
        rewards: Names of the parts of the reward.
        before: Evaluation of the policy before GRPO, with which the held-out curve begins.
        after: Evaluation of the policy after it, with which the curve ends; on the same tasks.

    Returns:
        The charts that have values.
    """
    first, last = records[0]["step"], records[-1]["step"]
    held_out = [_held_out_record(before, first - 1), *records, _held_out_record(after, last)]
    stops = ("answered", "max_turns", "malformed", "too_long")
    found = [
        make_chart("reward", records, {"total": "reward/total/mean", "spread in a group": "reward/group_std/mean"}),
        make_chart("parts of the reward", records, {name: f"reward/{name}/mean" for name in rewards}),
        make_chart("stop reasons, as shares", records, {name: f"stop/{name}/share" for name in stops}),
        make_chart("turns", records, {name: f"rollout/turns{key}/mean" for name, key in LABELS.items()}),
        make_chart(
            "episodes that zoom, as a share",
            records,
            {name: f"rollout/tool_use{key}/share" for name, key in LABELS.items()},
        ),
        make_chart("held-out J&F", held_out, {name: _held_out_key(name) for name in HELD_OUT}),
        make_chart("entropy", records, {"entropy": "policy/entropy"}),
        make_chart(
            "log-probs of sampler and learner, absolute difference",
            records,
            {"mean": "policy/mismatch/mean", "max": "rollout/mismatch/max"},
            log_scale=True,
        ),
        make_chart("KL to the start", records, {"KL": "policy/kl/mean"}),
        make_chart(
            "shares",
            records,
            {
                "groups of equal rewards": "reward/dead_groups/share",
                "clipped tokens": "policy/clipped/share",
                "masks in the gradient": "grad/masks/share",
                "calibration in the policy gradient": "grad/calibration/share",
            },
        ),
        make_chart("mask loss", records, {"masks": "loss/masks"}),
    ]
    return [chart for chart in found if chart is not None]


def with_present_names(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of `metrics.jsonl` in which metrics of older runs have their present names."""
    found = {}
    for name, value in record.items():
        for old, new in RENAMED.items():
            name = name.replace(old, new) if name.startswith(old) else name
        found[name] = value
    return found


def _held_out_key(slice_name: str) -> str:
    return f"eval/jf/{slice_name.replace(' ', '_')}"


def _held_out_record(stage: Evaluated, step: int) -> dict[str, Any]:
    """Return the record that `rl.evaluation.validation` would have logged after `step`."""
    summary = stage.results["sighted"]["summary"]
    means = {name: summary[name]["jf"] for name in HELD_OUT if name in summary}
    return {"step": step} | {_held_out_key(name): triple[0] for name, triple in means.items() if triple}
