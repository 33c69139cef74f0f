"""Common parts of the experiments: an arm is a policy, trained by GRPO or as it is, evaluated on held-out tasks.

Results are kept, so a second run of an experiment continues the first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl.evaluation.statistics import slices_of

TRAIN_SEED, EVAL_SEED = 1, 3  # no setting was chosen on the videos of seed 3
SETTINGS = {
    "greedy": (),
    "T=1": ("eval.temperature=1.0", "eval.blind=false"),
    "one turn": ("env.max_turns=1", "eval.blind=false"),
    "grey zooms": ("eval.blind_zooms=true", "eval.blind=false"),
}
WITHOUT_ZOOMS = ("one turn", "grey zooms")  # settings that show what zooming gains: disabled, or zoomed frames grey


@dataclass(frozen=True)
class Arm:
    """A policy to evaluate: `start` itself or, where settings are given, the result of GRPO with them."""

    name: str
    start: Path
    sets: tuple[str, ...] = ()
    without_zooms_too: bool = False  # evaluated in WITHOUT_ZOOMS as well
    samples: int = 1  # episodes per task at temperature 1, averaged


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the arguments that every experiment takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, runs, evaluations and the table")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of GRPO")
    parser.add_argument("--tasks", type=int, default=240, help="held-out tasks")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="settings of GRPO in all arms")
    parser.add_argument("--jobs", type=int, default=1, help="arms at a time; they divide the cores")
    return parser


def conduct(groups: Mapping[str, Sequence[Arm]], args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Train and evaluate all arms of all groups, `args.jobs` at a time; return the results of the arms by group."""
    out = args.out.resolve()
    if args.jobs > 1:
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // args.jobs))
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    write_data(out, num_train=1000, num_eval=max(2, args.tasks // 3))

    def result(arm: Arm) -> dict[str, Any]:
        policy = train(arm, out, args.set) if arm.sets else arm.start
        return evaluate_arm(policy, arm, out, args.tasks)

    with ThreadPoolExecutor(args.jobs) as pool:
        pending = {name: [pool.submit(result, arm) for arm in arms] for name, arms in groups.items() if arms}
        return {name: [future.result() for future in futures] for name, futures in pending.items()}


def run(*arguments: str) -> None:
    """Run one of our commands, with the output of this script."""
    subprocess.run([sys.executable, "-m", *arguments], check=True)


def write_data(out: Path, num_train: int, num_eval: int) -> None:
    for split, count, seed in (("train", num_train, TRAIN_SEED), ("heldout", num_eval, EVAL_SEED)):
        if not (out / "data" / split / "moving_shapes.json").is_file():
            root = str(out / "data" / split)
            run("cot_data.moving_shapes", "--out", root, "--videos", str(count), "--seed", str(seed))


def sets(*texts: str) -> list[str]:
    return [word for text in texts for word in ("--set", text)]


def train(arm: Arm, out: Path, extra: list[str]) -> Path:
    """Return the folder of the arm's last policy; train it if it is not there yet.

    Args:
        arm: the arm; it has settings of GRPO.
        out: folder of the experiment.
        extra: further settings of GRPO, "KEY=VALUE".
    """
    folder = out / arm.name
    last = folder / "last"
    if not last.exists():
        places = (f"run_dir={folder}", f"data.train_root={out / 'data/train'}", f"policy.path={arm.start}")
        places += ("grpo.eval_every=0",)  # arms are evaluated at their end, on other tasks than those of the config
        begun = any((folder / "checkpoints").glob("step-*/state.pt"))
        run("rl.grpo", "--config", "tiny", *sets(*places, *arm.sets, *extra), *(["--resume"] if begun else []))
        newest = max((folder / "checkpoints").glob("step-*"), key=lambda path: int(path.name.split("-")[1]))
        last.symlink_to(newest.relative_to(folder) / "policy")
    return last


def evaluate_arm(policy: Path, arm: Arm, out: Path, num_tasks: int) -> dict[str, Any]:
    """Evaluate one policy in the settings of its arm.

    Args:
        policy: folder of the checkpoint.
        arm: the arm that the policy belongs to.
        out: folder of the experiment.
        num_tasks: number of held-out tasks.

    Returns:
        Results by setting, then by view ("sighted", and "blind" where it was asked for).
    """
    results = {}
    for setting, overrides in SETTINGS.items():
        if setting in WITHOUT_ZOOMS and not arm.without_zooms_too:
            continue
        samples = arm.samples if setting == "T=1" else 1
        runs = [_evaluate(policy, f"{arm.name} {setting}", overrides, seed, out, num_tasks) for seed in range(samples)]
        views = [view for view in ("sighted", "blind") if view in runs[0]]
        results[setting] = {view: {"rows": _averaged([each[view]["rows"] for each in runs])} for view in views}
    return results


def _evaluate(
    policy: Path, name: str, overrides: Sequence[str], seed: int, out: Path, num_tasks: int
) -> dict[str, Any]:
    name = (f"{name} {seed}" if seed else name).replace(" ", "_")
    folder = out / "eval" / name
    if not (folder / "results.json").is_file():
        places = (f"data.eval_root={out / 'data/heldout'}", f"eval.num_tasks={num_tasks}", f"seed={seed}")
        command = ("--checkpoint", str(policy), "--out", str(folder), *sets(*places, *overrides))
        run("rl.evaluate", "--config", "tiny", *command)
    return json.loads((folder / "results.json").read_text())


def _averaged(runs: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Average rows of the same tasks in the same order; values that are not numbers come from the first run."""
    return [
        {
            key: sum(row[key] for row in rows) / len(rows) if isinstance(value, float | int) else value
            for key, value in rows[0].items()
        }
        for rows in zip(*runs, strict=True)
    ]


def values(results: dict[str, Any], group: str, measure: str, view: str = "sighted") -> np.ndarray:
    """Return one value per task of `group`, NaN where the metric does not apply.

    Args:
        results: results of one evaluation, by view.
        group: name of a slice of the tasks, such as "all".
        measure: name of the metric.
        view: "sighted" or "blind".
    """
    rows = results[view]["rows"]
    picked = slices_of(rows).get(group, [])
    return np.array([np.nan if rows[at][measure] is None else rows[at][measure] for at in picked], float)


def cell(per_task: np.ndarray, scale: float = 100.0, sign: str = "") -> str:
    """Return mean and standard error over tasks as text.

    Args:
        per_task: one value per task (seeds already averaged), NaN where there is none.
        scale: factor of the printed values; 100 gives percent.
        sign: "+" to print the sign of positive values.
    """
    known = per_task[~np.isnan(per_task)]
    if not len(known):
        return "-"
    digits = 1 if scale > 1 else 2
    error = known.std(ddof=1) / len(known) ** 0.5
    return f"{scale * known.mean():{sign}.{digits}f} ±{scale * error:.{digits}f}"


def of(runs: list[dict[str, Any]], setting: str, group: str, measure: str, view: str = "sighted") -> np.ndarray:
    """Return one value per task: the mean over the seeds of an arm. The arguments are those of `values`."""
    return np.mean([values(each[setting], group, measure, view) for each in runs], axis=0)
