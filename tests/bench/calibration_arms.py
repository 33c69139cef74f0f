"""Measure what SEG-aware logit calibration adds to GRPO: each form, several seeds, the same budget.

    python -m tests.bench.calibration_arms --out runs/arms --seeds 0 1 2 --tasks 240

Runs of the shipped settings are reused if `tests.bench.arms` has trained them in the folder. All are evaluated on the
same held-out tasks and paired with the cold start; the results are calibration.md and calibration.png.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from configs.load import load_config
from policy import SHIPPED
from rl.learner.calibration import CALIBRATIONS
from tests.bench.arm import Arm, arguments, cell, conduct, of
from tests.bench.arms_plot import SMOOTH, read_curve

COLD = "cold start"
COLUMNS = ("calibration", "J&F, greedy", "over the cold start", "J&F, T=1", "over", "J visible, T=1", "over", "format")
CURVES = {
    "reward/total/mean": "reward",
    "reward/mask_iou/mean": "reward of the mask, 0..1",
    "grad/masks/share": "share of the masks in the gradient",
}


def arms(form: str, seeds: Sequence[int], shipped_form: str) -> list[Arm]:
    """Return one arm per seed.

    Args:
        form: form of the calibration.
        seeds: seeds of GRPO.
        shipped_form: the form in the shipped config; its arms have the names that `tests.bench.arms` gives them.
    """
    if form == shipped_form:
        return [Arm(f"grpo-{seed}", SHIPPED, (f"seed={seed}",)) for seed in seeds]
    return [Arm(f"{form}-{seed}", SHIPPED, (f"seed={seed}", f"grpo.calibration={form}")) for seed in seeds]


def table(evaluated: Mapping[str, list[dict[str, Any]]]) -> str:
    """Return a Markdown table, a line per form: means over tasks of the mean over seeds, differences paired by task."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for name, runs in evaluated.items():
        cells = [name]
        for setting, measure in (("greedy", "jf"), ("T=1", "jf"), ("T=1", "j_visible")):
            per_task, base = (of(each, setting, "all", measure) for each in (runs, evaluated[COLD]))
            cells += [cell(per_task), "" if name == COLD else cell(per_task - base, sign="+")]
        lines.append("| " + " | ".join([*cells, cell(of(runs, "T=1", "all", "format"))]) + " |")
    return "\n".join(lines)


def plot(runs: Mapping[str, Sequence[Path]], path: Path) -> None:
    """Write the figure: a panel per metric, a line per form. `runs` are run folders of GRPO by form."""
    figure, axes = plt.subplots(1, len(CURVES), figsize=(4 * len(CURVES), 3.2), layout="constrained")
    for axis, (metric, label) in zip(axes, CURVES.items(), strict=True):
        for form, folders in runs.items():
            curve_B = read_curve(folders, metric)
            axis.plot(SMOOTH * np.arange(len(curve_B)) + SMOOTH / 2, curve_B, label=form)
        axis.set(xlabel="step of GRPO", title=label)
    axes[0].legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    args = arguments(__doc__).parse_args()
    shipped_form = load_config("tiny").grpo.calibration
    groups = {form: arms(form, args.seeds, shipped_form) for form in CALIBRATIONS}
    evaluated = conduct({COLD: [Arm(COLD, SHIPPED)], **groups}, args)
    out = args.out.resolve()
    (out / "calibration.md").write_text(table(evaluated) + "\n")
    plot({form: [out / arm.name for arm in each] for form, each in groups.items()}, out / "calibration.png")
    print(table(evaluated))


if __name__ == "__main__":
    main()
