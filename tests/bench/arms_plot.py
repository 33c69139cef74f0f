"""The figure of `tests.bench.arms`: how often policies zoom while GRPO trains them, and their gain."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

# Metric of GRPO's journal -> label in the figure.
ZOOM_METRICS = {
    "rollout/tool_use_fine_mark/share": "fine mark (zooming pays)",
    "rollout/tool_use_brief_event/share": "brief event (zooming pays)",
    "rollout/tool_use_plain/share": "zooming does not pay",
}
SMOOTH = 4  # steps to average over: a step has few tasks of each kind
Gains = Mapping[str, Mapping[str, tuple[float, float]]]  # arm -> row of the table -> mean and standard error


def read_curve(runs: Sequence[Path], metric: str) -> np.ndarray:
    """Return the mean of a metric over `runs`, [blocks of SMOOTH steps]; NaN where no step of a block has it."""
    curves = []
    for run in runs:
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        values = np.array([row.get(metric, np.nan) for row in rows], float)
        blocks = values[: len(values) // SMOOTH * SMOOTH].reshape(-1, SMOOTH)
        curves.append([np.nan if np.isnan(block).all() else np.nanmean(block) for block in blocks])
    return np.array(curves).mean(axis=0)


def plot_zooms(axis: Axes, runs: Mapping[str, Sequence[Path]]) -> None:
    """Plot the share of episodes that zoom, by kind of task: one line style per arm."""
    for (name, folders), style in zip(runs.items(), ("-", ":"), strict=False):
        for (metric, label), color in zip(ZOOM_METRICS.items(), ("C0", "C2", "C1"), strict=True):
            curve_B = read_curve(folders, metric)
            steps_B = SMOOTH * np.arange(len(curve_B)) + SMOOTH / 2
            axis.plot(steps_B, 100 * curve_B, style, color=color, label=label if style == "-" else None)
        axis.plot([], [], style, color="0.3", label=name)
    axis.set(xlabel="step of GRPO", ylabel="episodes that zoom, %", ylim=(0, 100))
    axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)


def plot_gains(axis: Axes, gains: Gains) -> None:
    """Plot J&F over the cold start, one bar per arm and row, with standard errors over tasks."""
    rows = list(next(iter(gains.values())))
    height = 0.8 / len(gains)
    for number, (name, of_rows) in enumerate(gains.items()):
        at = np.arange(len(rows)) + (number - (len(gains) - 1) / 2) * height
        means, errors = (100 * np.array([of_rows[row][part] for row in rows]) for part in (0, 1))
        axis.barh(at, means, height, xerr=errors, label=name, capsize=2, color=("C0", "0.7")[number % 2])
    axis.axvline(0, color="0.3", linewidth=1)
    axis.set_yticks(range(len(rows)), rows)
    axis.invert_yaxis()
    axis.set_xlabel("J&F over the cold start, points")
    axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)


def plot(runs: Mapping[str, Sequence[Path]], gains: Gains, path: Path) -> None:
    """Write the figure.

    Args:
        runs: run folders of GRPO, by arm.
        gains: gain over the cold start, by arm and row of the table.
        path: PNG to write.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    plot_zooms(left, runs)
    plot_gains(right, gains)
    figure.savefig(path, dpi=150)
    plt.close(figure)
