"""Look at stored trajectories: `python -m env.replay RUN`.

RUN is a run folder or its `trajectories` folder. The command prints a table; `--html` writes a page, `--rescore` checks
the stored rewards, `--play` lets a person act in place of the policy.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.text import Text

from configs.load import ConfigError, load_config
from configs.plain_text import MAX_MESSAGE, plain
from configs.prompt_file import FILE_NAME
from configs.schema import RunConfig
from env.errors import INTERRUPTED, DataError, VideoSegError
from env.frames import FrameCache
from env.store import TrajectoryStore
from env.terminal import shown
from env.types import Scores, StopReason, Task, Trajectory
from env.viewer.page import render_page, write_page
from env.viewer.play import play
from env.viewer.table import Filter, print_table

PAGE_LIMIT = 40
TOLERANCE = 1e-9  # larger differences between stored and recomputed rewards are reported
PIPE_WIDTH = 160  # columns if the output is not a terminal
PLAY_WEIGHTS = {"interval_iou": 1.0, "key_frame": 1.0}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Return 0 when done, 1 if rewards differ (`--rescore`), 2 for wrong use or data."""
    args = _parser().parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
    wanted = Filter(args.min_reward, args.max_reward, args.stop, args.query, args.id, args.step)
    try:
        if args.play is not None:
            return _play(Path(args.play) if args.play else args.run, wanted, console)
        return _replay(args, wanted, console)
    except (VideoSegError, ConfigError) as error:
        Console(stderr=True, highlight=False).print(shown(error, MAX_MESSAGE, "red"), soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _replay(args: argparse.Namespace, wanted: Filter, console: Console) -> int:
    folder = _store_folder(args.run)
    limit = PAGE_LIMIT if args.html and args.limit is None else args.limit
    if not args.html and not args.rescore:
        print_table(list(islice(_read(folder, wanted), limit)), console)
        return 0
    config = _run_config(folder)
    found = list(_read(folder, wanted))
    chosen = found[:limit]
    if args.html:
        note = f"the first {len(chosen)} of {len(found)}; --limit shows more" if len(chosen) < len(found) else ""
        title = f"{args.run.resolve().name}: trajectories"
        weights = config.rewards if config else {}
        write_page(args.html, render_page(chosen, title, weights, FrameCache(), note))
        console.print(shown(f"{args.html}: {len(chosen)} of {len(found)} trajectories"))
    return _rescore(chosen, config, console) if args.rescore else 0


def _rescore(trajectories: Sequence[Trajectory], config: RunConfig | None, console: Console) -> int:
    """Compute all stored rewards again. Without a config the weights are unknown, so totals are not compared."""
    from rewards import REWARDS, score

    scored = [one for one in trajectories if one.scores and one.stop_reason is not StopReason.ERROR]
    num_different = 0
    for trajectory in scored:
        stored = trajectory.scores
        assert stored is not None
        weights = config.rewards if config else {name: 1.0 for name in stored.breakdown if name in REWARDS}
        fresh = score(replace(trajectory, scores=None), weights)
        if lines := _differences(stored, fresh, with_total=config is not None):
            num_different += 1
            console.print(shown(trajectory.trajectory_id, style="bold"))
            console.print(Text("\n".join(f"  {plain(line)}" for line in lines)))
    source = "weights of config.yaml" if config else "no config.yaml, so totals are not compared"
    unscored = len(trajectories) - len(scored)
    console.print(Text(f"{len(scored)} rescored ({source}), {num_different} differ, {unscored} had no scores"))
    return 1 if num_different else 0


def _differences(stored: Scores, fresh: Scores, with_total: bool) -> list[str]:
    pairs = {name: (stored.breakdown.get(name), fresh.breakdown.get(name)) for name in stored.breakdown}
    pairs |= {name: (stored.breakdown.get(name), fresh.breakdown[name]) for name in fresh.breakdown}
    if with_total:
        pairs["total"] = (stored.total, fresh.total)
    lines = []
    for name, (old, new) in pairs.items():
        if name != "total" and name not in fresh.breakdown:
            lines.append(f"{name}: stored {_number(old)}, not computed now (no such reward, or no weight for it)")
        elif name != "total" and name not in stored.breakdown:
            lines.append(f"{name}: not stored, now {_number(new)}")
        elif (old is None) != (new is None) or (old is not None and new is not None and abs(old - new) > TOLERANCE):
            lines.append(f"{name}: stored {_number(old)}, now {_number(new)}")
    return lines


def _play(source: Path | None, wanted: Filter, console: Console) -> int:
    """Let a person act on the first task that passes the filter, from a data root or from stored trajectories."""
    from rewards import score

    if source is None:
        raise VideoSegError("--play: expected a data root, or a run whose tasks you act on")
    task, config = _task_to_play(source, wanted)
    play(task, config.env, lambda trajectory: score(trajectory, PLAY_WEIGHTS).breakdown, console, sys.stdin)
    return 0


def _task_to_play(source: Path, wanted: Filter) -> tuple[Task, RunConfig]:
    from cot_data.datasets import load_tasks

    if (source / "meta_expressions.json").exists():
        config: RunConfig | None = None
        entries = load_tasks("mevis", source).entries
        tasks: Iterator[Task] = (
            entry.task()
            for entry in entries
            if wanted.query.lower() in entry.outline.expression.lower()
            and wanted.trajectory_id in entry.outline.task_id
        )
    else:
        folder = _store_folder(source)
        config = _run_config(folder)
        tasks = (trajectory.task for trajectory in _read(folder, wanted))
    task = next(tasks, None)
    if task is None:
        raise DataError(str(source), "no task passes the filter (--query, --id)")
    return task, config or RunConfig()


def _read(folder: Path, wanted: Filter) -> Iterator[Trajectory]:
    return filter(wanted, TrajectoryStore(folder).read())


def _store_folder(run: Path | None) -> Path:
    if run is None:
        raise VideoSegError("expected RUN, a run folder or its trajectories folder; see --help")
    for folder in (run / "trajectories", run):
        if (folder / "trajectories.jsonl").is_file():
            return folder
    raise DataError(str(run), "expected a run with trajectories/trajectories.jsonl, found none")


def _run_config(folder: Path) -> RunConfig | None:
    """Return the `config.yaml` of the run that wrote a store; None if there is none."""
    for path in (folder / "config.yaml", folder.parent / "config.yaml"):
        if path.is_file():
            prompt = path.parent / "initial" / FILE_NAME  # config.yaml has its place at the time of the run
            return load_config(path, [f"env.prompt={json.dumps(str(prompt))}"] if prompt.is_file() else [])
    return None


def _number(value: float | None) -> str:
    return "does not apply" if value is None else f"{value:.12g}"


def _step_range(text: str) -> tuple[int | None, int | None]:
    first, colon, last = text.partition(":")
    if not colon:
        return int(first), int(first) + 1
    return (int(first) if first else None), (int(last) if last else None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m env.replay", description="Look at stored trajectories.")
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="run folder, or its trajectories folder")
    choose = parser.add_argument_group("which trajectories (all criteria must hold)")
    choose.add_argument("--min-reward", type=float, metavar="R", help="total reward at least R")
    choose.add_argument("--max-reward", type=float, metavar="R", help="total reward at most R")
    choose.add_argument("--stop", type=StopReason, choices=list(StopReason), help="stop reason")
    choose.add_argument("--query", default="", metavar="TEXT", help="part of the expression, any case")
    choose.add_argument(
        "--id", default="", metavar="TEXT", help="part of the trajectory id (with --play of the task id)"
    )
    choose.add_argument(
        "--step", type=_step_range, default=(None, None), metavar="N or A:B", help="step N, or steps A to before B"
    )
    choose.add_argument("--limit", type=int, metavar="N", help=f"only the first N (a page shows {PAGE_LIMIT})")
    act = parser.add_argument_group("what to do (a table is printed when none is given)")
    act.add_argument("--html", type=Path, metavar="OUT", help="write one self-contained page")
    act.add_argument("--rescore", action="store_true", help="compute rewards again; exit status 1 where they differ")
    act.add_argument(
        "--play",
        nargs="?",
        const="",
        metavar="ROOT",
        help="act yourself, on a data root or on a task of RUN",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
