"""Measure what GRPO adds to the cold start, with controls, on held-out tasks.

    python -m tests.bench.arms --out runs/arms --seeds 0 1 2 --tasks 240

Arms: the shipped cold start, and others (`--cold-starts`); GRPO from the shipped one, once per seed; the same with
rewards shuffled within each group (nothing can be learnt from them); GRPO from the untrained policy (`--untrained`).
Each is evaluated on the same tasks with greedy decoding and at temperature 1. At temperature 1 the cold start is
sampled once per seed of GRPO, so that its mean is as precise as theirs. The shipped policy and those that GRPO trains
from it are also evaluated with zooming disabled (one turn) and with zoomed frames replaced by grey. Results are kept:
run the command again to continue.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from policy import SHIPPED
from tests.bench.arm import WITHOUT_ZOOMS, Arm, arguments, cell, conduct, of, values
from tests.bench.arms_plot import plot

# An untrained policy trains all of its weights, and every mask may learn from gold.
LEARNS_ALL = (
    "policy.freeze_vision=false",
    "policy.freeze_embeddings=false",
    "grpo.freeze_sam=false",
    "grpo.mask_least_iou=0",
)
GROUPS = ("all", "exploring pays", "exploring does not pay")


COLUMNS = (
    "tasks",
    "arm",
    "J&F, greedy",
    "blind",
    "over the cold start",
    "J&F, T=1",
    "over the cold start",
    "format, T=1",
    "turns, greedy",
    "turns, T=1",
    "one turn, greedy",
    "grey zooms, greedy",
)


def table(evaluated: dict[str, list[dict[str, Any]]]) -> str:
    """Return a Markdown table: a line per group of tasks and arm (mean over its seeds), differences paired by task."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for group in GROUPS:
        for name, runs in evaluated.items():
            base = evaluated["cold start"] if name != "cold start" else []
            count = len(values(runs[0]["greedy"], group, "jf"))
            lines.append("| " + " | ".join([f"{group} ({count})", name, *figure_cells(runs, base, group)]) + " |")
    return "\n".join(lines)


def figure_cells(runs: list[dict[str, Any]], base: list[dict[str, Any]], group: str) -> list[str]:
    """Return the cells of one arm.

    Args:
        runs: results of the arm, one per seed.
        base: results of the cold start to compare with; empty for the cold start itself.
        group: name of the slice of tasks.
    """

    def gain(setting: str) -> str:
        return cell(of(runs, setting, group, "jf") - of(base, setting, group, "jf"), sign="+") if base else ""

    return [
        cell(of(runs, "greedy", group, "jf")),
        cell(of(runs, "greedy", group, "jf", "blind")),
        gain("greedy"),
        cell(of(runs, "T=1", group, "jf")),
        gain("T=1"),
        cell(of(runs, "T=1", group, "format")),
        cell(of(runs, "greedy", group, "turns"), 1),
        cell(of(runs, "T=1", group, "turns"), 1),
        *(cell(of(runs, setting, group, "jf")) if setting in runs[0] else "-" for setting in WITHOUT_ZOOMS),
    ]


def gains(evaluated: dict[str, list[dict[str, Any]]], name: str) -> dict[str, tuple[float, float]]:
    """Return, by setting and group, mean and standard error over tasks of the arm's gain over the cold start."""
    found = {}
    for setting in ("greedy", "T=1"):
        for group in GROUPS:
            gain = of(evaluated[name], setting, group, "jf") - of(evaluated["cold start"], setting, group, "jf")
            found[f"{setting}, {group}"] = (float(gain.mean()), float(gain.std(ddof=1) / len(gain) ** 0.5))
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--cold-starts", type=Path, nargs="*", default=[], help="policies cold-started from other seeds"
    )
    parser.add_argument("--untrained", type=Path, help="an untrained policy, for the arm without a cold start")
    args = parser.parse_args()
    groups = {
        "cold start": [Arm("cold start", SHIPPED, without_zooms_too=True, samples=len(args.seeds))],
        "cold start, other seeds": [Arm(f"cold-{n}", policy.resolve()) for n, policy in enumerate(args.cold_starts)],
        "GRPO": [Arm(f"grpo-{seed}", SHIPPED, (f"seed={seed}",), True) for seed in args.seeds],
        "shuffled rewards": [Arm("shuffled", SHIPPED, ("grpo.shuffle_rewards=true",))],
        "no cold start": [Arm("no-cold-start", args.untrained.resolve(), LEARNS_ALL)] if args.untrained else [],
    }
    evaluated = conduct(groups, args)
    out = args.out.resolve()
    (out / "table.md").write_text(table(evaluated) + "\n")
    shown = {name: groups[name] for name in ("GRPO", "shuffled rewards")}
    runs = {name: [out / arm.name for arm in arms] for name, arms in shown.items()}
    plot(runs, {name: gains(evaluated, name) for name in shown}, out / "arms.png")
    print(table(evaluated))


if __name__ == "__main__":
    main()
