"""The experiment that tells what GRPO adds to the cold start, with controls, on held-out tasks.

    python -m tests.bench.arms --out runs/arms --seeds 0 1 2 --tasks 240

Arms: the shipped cold start, and others (`--cold-starts`); GRPO from the shipped one, once per seed; the same with
rewards shuffled within each group (nothing can be learnt from them); GRPO from the untrained policy (`--untrained`).
Each is judged on the same tasks at greedy decoding and at temperature 1 (there the cold start as often as there are
seeds, so that its luck weighs no more than theirs); the shipped one and what GRPO makes of it also held to one turn (a
select then is no answer), and with all it asks to see shown grey. What is done is kept: run it again to go on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from policy import SHIPPED
from tests.bench.arm import WITHOUT_LOOKS, Arm, arguments, cell, conduct, of, values
from tests.bench.arms_plot import plot

# Where nothing is settled yet nothing is kept fixed, and every mask may learn from gold.
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
    "held to one turn, greedy",
    "looks shown grey, greedy",
)


def table(judged: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: per group of tasks a line per arm (mean over its seeds); differences are paired by task."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for group in GROUPS:
        for name, runs in judged.items():
            base = judged["cold start"] if name != "cold start" else []
            count = len(values(runs[0]["greedy"], group, "jf"))
            lines.append("| " + " | ".join([f"{group} ({count})", name, *figure_cells(runs, base, group)]) + " |")
    return "\n".join(lines)


def figure_cells(runs: list[dict[str, Any]], base: list[dict[str, Any]], group: str) -> list[str]:
    """The cells of an arm; without `base` there is nothing to compare it with."""

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
        *(cell(of(runs, setting, group, "jf")) if setting in runs[0] else "-" for setting in WITHOUT_LOOKS),
    ]


def gains(judged: dict[str, list[dict[str, Any]]], name: str) -> dict[str, tuple[float, float]]:
    """Setting and group -> mean and standard error, over tasks, of what an arm gains over the cold start."""
    found = {}
    for setting in ("greedy", "T=1"):
        for group in GROUPS:
            gain = of(judged[name], setting, group, "jf") - of(judged["cold start"], setting, group, "jf")
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
        "cold start": [Arm("cold start", SHIPPED, asks_what_looks_give=True, samples=len(args.seeds))],
        "cold start, other seeds": [Arm(f"cold-{n}", policy.resolve()) for n, policy in enumerate(args.cold_starts)],
        "GRPO": [Arm(f"grpo-{seed}", SHIPPED, (f"seed={seed}",), True) for seed in args.seeds],
        "shuffled rewards": [Arm("shuffled", SHIPPED, ("grpo.shuffle_rewards=true",))],
        "no cold start": [Arm("no-cold-start", args.untrained.resolve(), LEARNS_ALL)] if args.untrained else [],
    }
    judged = conduct(groups, args)
    out = args.out.resolve()
    (out / "table.md").write_text(table(judged) + "\n")
    shown = {name: groups[name] for name in ("GRPO", "shuffled rewards")}
    runs = {name: [out / arm.name for arm in arms] for name, arms in shown.items()}
    plot(runs, {name: gains(judged, name) for name in shown}, out / "arms.png")
    print(table(judged))


if __name__ == "__main__":
    main()
