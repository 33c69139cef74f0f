"""Evaluate a checkpoint on held-out tasks or on a benchmark, score masks of another system, or compare evaluations.

    python -m rl.evaluate --config tiny --checkpoint runs/demo/cold_start/policy --out runs/demo/eval/cold_start
    python -m rl.evaluate --benchmark revos --checkpoint C --out DIR --set data.eval_root=/data/revos
    python -m rl.evaluate --benchmark revos --from-predictions MASKS --out DIR --set data.eval_root=/data/revos
    python -m rl.evaluate --compare A B --out DIR

Writes `results.json`, `table.txt` and the trajectories; started again, it goes on where it stopped. The checkpoint may
be of any model family (`rl.families`). Unless `--set eval.blind=false`, the same model is also evaluated blind, on grey
frames: the difference shows how much of a figure comes from the video. `--benchmark` adds the figures of that
benchmark's own protocol (`rl.benchmarks.protocols`), or writes `submission.zip` for its server where the gold masks are
hidden. `--set eval.workers=N` segments with N Ray workers. `--compare` is `rl.evaluation.compare`. Failed tasks are
counted apart (`eval.failed`); with more than `eval.max_failed_share` of them the exit status is 1.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.load import add_config_arguments, check_command_line, config_from_args

if __name__ == "__main__":
    check_command_line()  # a mistake ends the command here, before the imports below load torch

from rich.console import Console, Group
from rich.table import Table

from configs.schema import RunConfig
from cot_data.datasets import held_out_tasks, load_tasks
from env.errors import DataError, command
from env.files import write_json, write_text
from env.store import TrajectoryStore
from env.types import Task, names_in
from rl.benchmarks.expression_scores import frame_names
from rl.benchmarks.predictions import open_predictions
from rl.benchmarks.protocols import BENCHMARKS
from rl.benchmarks.scorer import TrajectoryPredictions, benchmark_table, is_gold_known, score_benchmark
from rl.evaluation.compare import compare, compare_table, write_comparison
from rl.evaluation.identity import STORES
from rl.evaluation.runner import measure_tasks, segment_tasks
from rl.evaluation.table import results_table
from rl.families import family_name, require_checkpoint
from rl.runtime.failed_tasks import require_answers
from rl.runtime.preflight import prepare_machine


def evaluate(config: RunConfig, checkpoint: Path, tasks: Sequence[Task], out: Path) -> dict[str, Any]:
    """Segment `tasks` and write the figures.

    Args:
        config: Of the run; `eval.blind` adds the blind evaluation.
        checkpoint: Folder of the model.
        tasks: With gold masks.
        out: Folder for `results.json` and the trajectories.

    Returns:
        What `results.json` holds.
    """
    labels = ("sighted", "blind") if config.eval.blind else ("sighted",)
    stores = segment_tasks(config, checkpoint, tasks, out, labels)
    results = {**_origin(config, checkpoint, len(tasks)), **measure_tasks(config, stores, tasks)}
    _write(results, out)
    return results


def evaluate_benchmark(config: RunConfig, name: str, limit: int, checkpoint: Path, out: Path) -> dict[str, Any]:
    """Evaluate a checkpoint on a benchmark, whose figures are added as "benchmark".

    Args:
        config: Of the run; `data.eval_root` is the benchmark's folder.
        name: A key of `BENCHMARKS`.
        limit: Only the first so many tasks; 0 takes all.
        checkpoint: Folder of the model.
        out: Folder for `results.json`, the trajectories and `submission.zip`.

    Returns:
        What `results.json` holds.
    """
    every = load_tasks(name, config.data.eval_root)
    tasks = every[:limit] if limit else every
    if is_gold_known(name, every):
        results = evaluate(config, checkpoint, tasks, out)
    else:
        segment_tasks(config, checkpoint, tasks, out, ["sighted"])
        results = _origin(config, checkpoint, len(tasks))
    predictions = TrajectoryPredictions(TrajectoryStore(out / STORES["sighted"]).read())
    results["benchmark"] = score_benchmark(name, every, limit, predictions, out)
    _write(results, out)
    return results


def score_predictions(config: RunConfig, name: str, limit: int, source: Path, out: Path) -> dict[str, Any]:
    """Score masks that another system wrote by the protocol of a benchmark.

    Args:
        config: Of the run; `data.eval_root` is the benchmark's folder.
        name: A key of `BENCHMARKS`.
        limit: Only the first so many tasks; 0 takes all.
        source: The masks (`rl.benchmarks.predictions`).
        out: Folder for `results.json`.

    Returns:
        What `results.json` holds.

    Raises:
        DataError: `source` holds a prediction for none of the tasks.
    """
    out.mkdir(parents=True, exist_ok=True)
    every = load_tasks(name, config.data.eval_root)
    found = score_benchmark(name, every, limit, open_predictions(source), out)
    if found["num_missing"] == found["num_tasks"]:
        example = "/".join((*names_in(every[0].task_id), frame_names(every[0])[0]))
        raise DataError(str(source), f"holds no prediction for any of the tasks; expected files such as {example}.png")
    results = {"predictions": str(source), "provenance": _provenance(), "benchmark": found}
    _write(results, out)
    return results


def _origin(config: RunConfig, checkpoint: Path, num_tasks: int) -> dict[str, Any]:
    facts = {"checkpoint": str(checkpoint), "num_tasks": num_tasks, "provenance": _provenance()}
    return {**facts, "temperature": config.eval.temperature}


def _provenance() -> dict[str, Any]:
    from rl.runtime.journal import provenance  # imports torch, which has to wait for the engine's settings

    return provenance()


def _write(results: dict[str, Any], out: Path) -> None:
    write_json(out / "results.json", results)


@command
def main() -> None:
    args = _parser().parse_args()
    config = config_from_args(args)
    if args.checkpoint:
        require_checkpoint(args.checkpoint, "--checkpoint")
        family_name(args.checkpoint, config.policy.kind)  # an unknown one is told before anything is read or written
    with prepare_machine(args.out, uses_ray=bool(args.checkpoint and config.eval.workers)):
        _run(args, config)


def _run(args: argparse.Namespace, config: RunConfig) -> None:
    """Do what the command line asks for, in the folder `--out`."""
    if args.compare:
        first, second = args.compare
        differences = compare(first, second, config.eval.num_bootstrap, config.seed)
        write_comparison(differences, args.out)
        return show([compare_table(differences, first, second)], args.out / "compare.txt")
    if args.from_predictions:
        name = args.benchmark or config.data.dataset
        results = score_predictions(config, name, args.limit, args.from_predictions, args.out)
    elif args.benchmark:
        results = evaluate_benchmark(config, args.benchmark, args.limit, args.checkpoint, args.out)
    else:
        results = evaluate(config, args.checkpoint, held_out_tasks(config), args.out)
    tables: list[Table | Group] = []
    if "sighted" in results:
        tables.append(results_table(results))
    if "benchmark" in results:
        tables.append(benchmark_table(results["benchmark"], str(args.from_predictions or args.checkpoint)))
    show(tables, args.out / "table.txt")
    require_answers(results, config.eval.max_failed_share)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint or predicted masks, or compare evaluations.")
    add_config_arguments(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint", type=Path, help="folder of a model of any family, with its policy.json")
    what.add_argument("--from-predictions", type=Path, metavar="DIR", help="masks: PNG folders, or a results.json")
    what.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"), help="folders of two evaluations: B minus A")
    names = ", ".join(BENCHMARKS)
    parser.add_argument("--benchmark", metavar="NAME", help=f"layout of data.eval_root, and protocol, of: {names}")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="only the first N tasks of the benchmark")
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json and the trajectories")
    return parser


def show(tables: Sequence[Table | Group], path: Path) -> None:
    """Print tables, and write them to a file that is wide enough."""
    Console().print(*tables)
    text = io.StringIO()
    Console(file=text, width=160).print(*tables)
    write_text(path, text.getvalue())


if __name__ == "__main__":
    main()
