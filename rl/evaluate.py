"""Evaluate a checkpoint on held-out tasks: J, F, J&F, interval IoU, key-frame hits, format, turns, with intervals.

    python -m rl.evaluate --config tiny --checkpoint runs/demo/cold_start/policy --out runs/demo/eval/cold_start

Writes `results.json`, `table.txt` and the trajectories. Beside every figure stands the blind one, of the same policy
shown grey frames, unless `--set eval.blind=false`: what a policy scores without looking says how much a figure means.
`--compare A B` holds two such folders against each other (`rl.compare`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from configs.load import add_config_arguments, config_from_args
from configs.schema import RunConfig
from cot_data.datasets import held_out_tasks
from env.errors import command
from env.frames import FrameCache
from env.store import TrajectoryStore
from env.types import Task
from policy.build import load_policy
from policy.engine_env import set_engine_env
from policy.engines import build_sampler
from rl import statistics
from rl.compare import compare, compare_table, write_comparison
from rl.groups import groups_of
from rl.journal import provenance
from rl.measure import MEASURES, measure
from rl.progress import progress_bar
from rl.segment import Segmenter


def summarise(rows: Sequence[dict[str, Any]], num_bootstrap: int, seed: int) -> dict[str, dict[str, Any]]:
    """Group name -> measure -> [mean, low, high], and "n"."""
    summary: dict[str, dict[str, Any]] = {}
    for name, members in groups_of(rows).items():
        chosen = [rows[at] for at in members]
        summary[name] = {"n": len(members), **statistics.summarise(chosen, MEASURES, num_bootstrap, seed)}
    return summary


def over_blind(
    sighted: Sequence[dict[str, Any]], blind: Sequence[dict[str, Any]], num_bootstrap: int, seed: int
) -> dict[str, statistics.Estimate | None]:
    """Group name -> [mean, low, high] of what looking adds to `j_visible`, task by task; both lists in one order."""
    gains: dict[str, statistics.Estimate | None] = {}
    for name, members in groups_of(sighted).items():
        known = [at for at in members if sighted[at]["j_visible"] is not None]
        without, with_eyes = ([float(rows[at]["j_visible"]) for at in known] for rows in (blind, sighted))
        gains[name] = statistics.paired_difference(without, with_eyes, num_bootstrap, seed) if known else None
    return gains


def evaluate(config: RunConfig, checkpoint: Path, tasks: Sequence[Task], out: Path) -> dict[str, Any]:
    """Segment `tasks` with the policy of `checkpoint`, sighted and (if configured) blind; write the results."""
    out.mkdir(parents=True, exist_ok=True)
    policy = load_policy(checkpoint).eval()
    sampler = build_sampler(config.sampler, checkpoint / "vlm", config.env.max_context_tokens, config.seed)
    results: dict[str, Any] = {"checkpoint": str(checkpoint), "num_tasks": len(tasks), "provenance": provenance()}
    results["temperature"] = config.eval.temperature
    frames = FrameCache(blind_looks=config.eval.blind_looks)
    for label in ("sighted", "blind") if config.eval.blind else ("sighted",):
        shown = FrameCache(blind=True) if label == "blind" else frames
        segmenter = Segmenter(policy, sampler, shown, frames, config.env)
        rows = []
        store = TrajectoryStore(out / f"trajectories_{label}" if label == "blind" else out / "trajectories")
        store.drop_from(-1)
        with progress_bar(f"evaluate ({label})", len(tasks)) as advance:
            for trajectory in segmenter.segment(tasks, config.eval.temperature, config.seed):
                rows.append(measure(trajectory))
                store.append([trajectory])
                advance()
        results[label] = {"rows": rows, "summary": summarise(rows, config.eval.num_bootstrap, config.seed)}
    sampler.close()
    if config.eval.blind:
        rows = (results["sighted"]["rows"], results["blind"]["rows"])
        results["over_blind"] = over_blind(*rows, config.eval.num_bootstrap, config.seed)
    (out / "results.json").write_text(json.dumps(results, indent=1))
    return results


def results_table(results: dict[str, Any]) -> Table:
    """A table of percent figures with half-widths of the 95 % interval, the blind baseline in its own column."""
    title = f"{results['checkpoint']} ({results['num_tasks']} tasks)"
    table = Table(title=title, box=SIMPLE_HEAD, collapse_padding=True)
    for column in (
        "group",
        "n",
        "J&F",
        "J&F blind",
        "J visible",
        "J visible blind",
        "looking adds",
        "interval IoU",
        "key hit",
        "format",
        "turns",
    ):
        table.add_column(column, justify="left" if column == "group" else "right", min_width=0 if column == "n" else 5)
    blind = results.get("blind", {}).get("summary", {})
    for name, row in results["sighted"]["summary"].items():
        shut = blind.get(name, {})
        cells = [
            _percent(row["jf"]),
            _percent(shut.get("jf")),
            _percent(row["j_visible"]),
            _percent(shut.get("j_visible")),
            _percent(results.get("over_blind", {}).get(name)),
        ]
        cells += [_percent(row["interval_iou"]), _percent(row["key_hit"]), _percent(row["format"])]
        table.add_row(name, str(row["n"]), *cells, f"{row['turns'][0]:.2f}")
    return table


def _percent(triple: Sequence[float] | None) -> str:
    if triple is None:
        return "-"
    mean, low, high = triple
    return f"{100 * mean:.1f} ±{50 * (high - low):.1f}"


@command
def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint on held-out tasks, or compare two evaluations.")
    add_config_arguments(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint", type=Path, help="folder with vlm/, seg.safetensors, policy.json")
    what.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"), help="folders of two evaluations: B minus A")
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json and the trajectories")
    args = parser.parse_args()
    config = config_from_args(args)
    if args.compare:
        first, second = args.compare
        differences = compare(first, second, config.eval.num_bootstrap, config.seed)
        write_comparison(differences, args.out)
        return show(compare_table(differences, first, second), args.out / "compare.txt")
    set_engine_env()
    results = evaluate(config, args.checkpoint, held_out_tasks(config), args.out)
    show(results_table(results), args.out / "table.txt")


def show(table: Table, path: Path) -> None:
    """Print a table, and keep it in a file that is wide enough."""
    Console().print(table)
    with path.open("w") as file:
        Console(file=file, width=160).print(table)


if __name__ == "__main__":
    main()
