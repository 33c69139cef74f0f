"""The experiment that tells what GRPO adds to the cold start, with controls, on held-out tasks.

    python -m tests.bench.arms --out runs/arms --seeds 0 1 2 --tasks 240

Arms: the shipped cold start, and others (`--cold-starts`); GRPO from the shipped one, once per seed; the same with
rewards shuffled within each group (nothing can be learnt from them); GRPO from the untrained policy (`--untrained`).
Each is judged on the same tasks at greedy decoding and at temperature 1; the shipped one and what GRPO makes of it
also held to one turn (a select then is no answer), and with all it asks to see shown grey. What is done is kept: run
it again to go on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from policy import SHIPPED
from rl.groups import groups_of
from tests.bench.arms_plot import plot

TRAIN_SEED, EVAL_SEED = 1, 3  # 3: no setting was chosen on these videos
SETTINGS = {
    "greedy": (),
    "T=1": ("eval.temperature=1.0", "eval.blind=false"),
    "one turn": ("env.max_turns=1", "eval.blind=false"),
    "blind looks": ("eval.blind_looks=true", "eval.blind=false"),
}
WITHOUT_LOOKS = ("one turn", "blind looks")  # settings that tell what looking closer is worth to a policy
# Where nothing is settled yet nothing is kept fixed, and every mask may learn from gold.
LEARNS_ALL = ("policy.freeze_vision=false", "grpo.freeze_sam=false", "grpo.mask_least_iou=0")
GROUPS = ("all", "exploring pays", "exploring does not pay")


@dataclass(frozen=True)
class Arm:
    """A policy to judge: `start` itself, or where settings are given what GRPO with them makes of it."""

    name: str
    start: Path
    sets: tuple[str, ...] = ()
    asks_what_looks_give: bool = False  # judged in WITHOUT_LOOKS too


def run(*arguments: str) -> None:
    """One of our commands; its output goes where this script's goes."""
    subprocess.run([sys.executable, "-m", *arguments], check=True)


def write_data(out: Path, num_train: int, num_eval: int) -> None:
    for split, count, seed in (("train", num_train, TRAIN_SEED), ("heldout", num_eval, EVAL_SEED)):
        if not (out / "data" / split / "moving_shapes.json").is_file():
            root = str(out / "data" / split)
            run("cot_data.moving_shapes", "--out", root, "--videos", str(count), "--seed", str(seed))


def sets(*texts: str) -> list[str]:
    return [word for text in texts for word in ("--set", text)]


def train(arm: Arm, out: Path, extra: list[str]) -> Path:
    """The arm's last policy; trains it where that is not there yet."""
    folder = out / arm.name
    last = folder / "last"
    if not last.exists():
        places = (f"run_dir={folder}", f"data.train_root={out / 'data/train'}", f"policy.path={arm.start}")
        begun = any((folder / "checkpoints").glob("step-*/state.pt"))
        run("rl.grpo", "--config", "tiny", *sets(*places, *arm.sets, *extra), *(["--resume"] if begun else []))
        newest = max((folder / "checkpoints").glob("step-*"), key=lambda path: int(path.name.split("-")[1]))
        last.symlink_to(newest.relative_to(folder) / "policy")
    return last


def judge(policy: Path, arm: Arm, out: Path, num_tasks: int) -> dict[str, Any]:
    """Setting -> results of one policy."""
    results = {}
    for setting, overrides in SETTINGS.items():
        if setting in WITHOUT_LOOKS and not arm.asks_what_looks_give:
            continue
        folder = out / "eval" / f"{arm.name} {setting}".replace(" ", "_")
        if not (folder / "results.json").is_file():
            places = (f"data.eval_root={out / 'data/heldout'}", f"eval.num_tasks={num_tasks}")
            command = ("--checkpoint", str(policy), "--out", str(folder), *sets(*places, *overrides))
            run("rl.evaluate", "--config", "tiny", *command)
        results[setting] = json.loads((folder / "results.json").read_text())
    return results


def values(results: dict[str, Any], group: str, measure: str, view: str = "sighted") -> np.ndarray:
    """One figure per task of `group`, NaN where it does not apply."""
    rows = results[view]["rows"]
    picked = groups_of(rows).get(group, [])
    return np.array([np.nan if rows[at][measure] is None else rows[at][measure] for at in picked], float)


def cell(per_task: np.ndarray, scale: float = 100.0, sign: str = "") -> str:
    """Mean and standard error over tasks; several seeds of one task are averaged first."""
    known = per_task[~np.isnan(per_task)]
    if not len(known):
        return "-"
    digits = 1 if scale > 1 else 2
    error = known.std(ddof=1) / len(known) ** 0.5
    return f"{scale * known.mean():{sign}.{digits}f} ±{scale * error:.{digits}f}"


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


def of(runs: list[dict[str, Any]], setting: str, group: str, measure: str, view: str = "sighted") -> np.ndarray:
    """One figure per task: the mean over the seeds of an arm."""
    return np.mean([values(each[setting], group, measure, view) for each in runs], axis=0)


def gains(judged: dict[str, list[dict[str, Any]]], name: str) -> dict[str, tuple[float, float]]:
    """Setting and group -> mean and standard error, over tasks, of what an arm gains over the cold start."""
    found = {}
    for setting in ("greedy", "T=1"):
        for group in GROUPS:
            gain = of(judged[name], setting, group, "jf") - of(judged["cold start"], setting, group, "jf")
            found[f"{setting}, {group}"] = (float(gain.mean()), float(gain.std(ddof=1) / len(gain) ** 0.5))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, runs, evaluations and table.md")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of GRPO")
    parser.add_argument("--tasks", type=int, default=240, help="held-out tasks")
    parser.add_argument(
        "--cold-starts", type=Path, nargs="*", default=[], help="policies cold-started from other seeds"
    )
    parser.add_argument("--untrained", type=Path, help="an untrained policy, for the arm without a cold start")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of GRPO, in all arms")
    parser.add_argument("--jobs", type=int, default=1, help="arms at a time, each with its share of the cores")
    args = parser.parse_args()
    out = args.out.resolve()
    if args.jobs > 1:
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // args.jobs))
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    write_data(out, num_train=1000, num_eval=max(2, args.tasks // 3))
    groups = {
        "cold start": [Arm("cold start", SHIPPED, asks_what_looks_give=True)],
        "cold start, other seeds": [Arm(f"cold-{n}", policy.resolve()) for n, policy in enumerate(args.cold_starts)],
        "GRPO": [Arm(f"grpo-{seed}", SHIPPED, (f"seed={seed}",), True) for seed in args.seeds],
        "shuffled rewards": [Arm("shuffled", SHIPPED, ("grpo.shuffle_rewards=true",))],
        "no cold start": [Arm("no-cold-start", args.untrained.resolve(), LEARNS_ALL)] if args.untrained else [],
    }

    def result(arm: Arm) -> dict[str, Any]:
        policy = train(arm, out, args.set) if arm.sets else arm.start
        return judge(policy, arm, out, args.tasks)

    with ThreadPoolExecutor(args.jobs) as pool:
        pending = {name: [pool.submit(result, arm) for arm in arms] for name, arms in groups.items() if arms}
        judged = {name: [future.result() for future in futures] for name, futures in pending.items()}
    (out / "table.md").write_text(table(judged) + "\n")
    shown = {name: groups[name] for name in ("GRPO", "shuffled rewards")}
    runs = {name: [out / arm.name for arm in arms] for name, arms in shown.items()}
    plot(runs, {name: gains(judged, name) for name in shown}, out / "arms.png")
    print(table(judged))


if __name__ == "__main__":
    main()
