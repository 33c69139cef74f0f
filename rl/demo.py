"""The main job: data, GRPO from the shipped checkpoint, evaluation before and after it, report; with `--from-nothing`
the cold start too. `python -m rl.demo --config tiny [--from-nothing] [--resume]`

Each stage is a process of its own, so that it has its own thread settings and gives its memory back.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from safetensors import safe_open

from configs.load import add_config_arguments, config_from_args, load_config, save_config
from configs.schema import RunConfig
from env.errors import CheckpointError, DataError, command
from env.frames import FrameCache
from env.page import render_page, write_page
from env.store import TrajectoryStore
from env.types import StopReason, Trajectory
from policy import SHIPPED
from rewards import score
from rl.memory import MemoryWatch
from rl.report import (
    MEASURES,
    WITH_BLIND,
    Evaluated,
    Phase,
    RunReport,
    cold_start_charts,
    facts_of,
    grpo_charts,
    render_report,
    replay_choice,
)
from rl.set_aside import set_aside

TRAIN_SEED, EVAL_SEED = 1, 2
# What a new start sets aside; the data stay.
OWN = ("cold_start", "grpo", "eval", "configs", "stages.json", "*.html")
EVALUATIONS = {"untrained": "untrained", "cold_start": "cold-started", "grpo": "GRPO-trained"}


@dataclass(frozen=True)
class Stage:
    """One process of the demo."""

    key: str  # in stages.json
    title: str
    command: list[str]  # arguments of the Python interpreter


class Ledger:
    """`<run>/stages.json`: which stages are done, what each took."""

    def __init__(self, run_dir: Path):
        self.path = run_dir / "stages.json"
        self.rows: dict[str, dict[str, Any]] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def is_done(self, key: str) -> bool:
        return bool(self.rows.get(key, {}).get("done"))

    def add(self, stage: Stage, seconds: float, peak_bytes: int, done: bool) -> None:
        """Time of an earlier, broken-off attempt is kept in the sum."""
        old = self.rows.get(stage.key, {"seconds": 0.0, "peak_bytes": 0})
        self.rows[stage.key] = {
            "name": stage.title,
            "seconds": old["seconds"] + seconds,
            "peak_bytes": max(old["peak_bytes"], peak_bytes),
            "done": done,
        }
        self.path.write_text(json.dumps(self.rows, indent=1))

    def phases(self) -> list[Phase]:
        return [Phase(row["name"], row["seconds"], row["peak_bytes"]) for row in self.rows.values()]


def run_demo(
    config: RunConfig, from_nothing: bool, resume: bool, num_train: int, num_eval: int, console: Console
) -> None:
    """All stages in order, then the report. SystemExit with the stage's exit code where one fails."""
    run_dir = Path(config.run_dir)
    start = run_dir / "cold_start" / "policy" if from_nothing else SHIPPED
    prepare(config, run_dir, start, resume)
    ledger = Ledger(run_dir)
    started = time.monotonic()
    with MemoryWatch() as watch:
        stages = data_stages(config, num_train, num_eval)
        stages += cold_start_stages(config) if from_nothing else []
        stages += grpo_stages(config, start)
        for stage in stages:
            if ledger.is_done(stage.key):
                console.print(f"{stage.title}: done before")
                continue
            heading = f"{stage.title} [dim]({(time.monotonic() - started) / 60:.1f} min so far)[/dim]"
            console.rule(heading, align="left")
            run_stage(stage, with_resume(stage, run_dir) if resume else stage.command, ledger, watch)
        console.rule("Report", align="left")
        unit = watch.unit
    report = collect(config, ledger, start, unit)
    write_page(run_dir / "report.html", render_report(report, FrameCache()))
    console.print(summary_table(report))
    minutes = sum(phase.seconds for phase in report.phases) / 60
    peak = max(phase.peak_bytes for phase in report.phases) / 2**30
    console.print(f"{minutes:.1f} minutes, peak memory {peak:.2f} GiB ({unit}, all processes together)")
    console.print(f"report: {run_dir / 'report.html'}")


def prepare(config: RunConfig, run_dir: Path, start: Path, resume: bool) -> None:
    """Set aside what an earlier demo left, or check that it can be gone on with; write the configs of the stages."""
    saved = run_dir / "configs" / "demo.yaml"
    if resume and not saved.is_file():
        raise CheckpointError(f"{run_dir}: nothing to resume from (no configs/demo.yaml); start without --resume")
    if resume and load_config(saved) != config:
        raise CheckpointError(f"{saved}: differs from the config given; give the same one, or start without --resume")
    if resume and load_config(saved.with_name("grpo.yaml")).policy.path != str(start):
        raise CheckpointError(f"{run_dir}: begun with the other choice of --from-nothing; make the same, or start anew")
    if not resume:
        set_aside(run_dir, OWN, SHIPPED)
    saved.parent.mkdir(parents=True, exist_ok=True)
    save_config(config, saved)
    save_config(replace(config, run_dir=str(run_dir / "cold_start")), saved.with_name("cold_start.yaml"))
    policy = replace(config.policy, path=str(start))
    save_config(replace(config, run_dir=str(run_dir / "grpo"), policy=policy), saved.with_name("grpo.yaml"))
    for key in EVALUATIONS:
        out = run_dir / "eval" / key
        out.mkdir(parents=True, exist_ok=True)
        save_config(replace(config, run_dir=str(out)), saved.with_name(f"eval_{key}.yaml"))
        save_config(replace(config, run_dir=str(out)), out / "config.yaml")  # where env.replay looks


def data_stages(config: RunConfig, num_train: int, num_eval: int) -> list[Stage]:
    """Moving Shapes where the data roots do not hold their data yet."""
    splits = (
        ("train", config.data.train_root, num_train, TRAIN_SEED),
        ("heldout", config.data.eval_root, num_eval, EVAL_SEED),
    )
    return [
        Stage(
            f"data_{name}",
            f"Data: {num_videos} videos of Moving Shapes ({name})",
            ["-m", "cot_data.moving_shapes", "--out", root, "--videos", str(num_videos), "--seed", str(seed)],
        )
        for name, root, num_videos, seed in splits
        if not has_data(Path(root), num_videos, seed)
    ]


def has_data(root: Path, num_videos: int, seed: int) -> bool:
    """Whether a split is there and whole. A data set that we did not write (no moving_shapes.json) is left as it is."""
    labels = root / "moving_shapes.json"  # written last
    if not labels.is_file():
        return (root / "meta_expressions.json").is_file()
    found = json.loads(labels.read_text())
    if (len(found["videos"]), found["seed"]) != (num_videos, seed):
        raise DataError(
            str(labels),
            f"expected {num_videos} videos of seed {seed}, found {len(found['videos'])} of seed {found['seed']}; "
            "remove the folder, or name another with --set data.train_root / data.eval_root",
        )
    return True


def cold_start_stages(config: RunConfig) -> list[Stage]:
    """The cold start, and the untrained policy on the held-out tasks."""
    run_dir = Path(config.run_dir)
    command = ["-m", "rl.sft_coldstart", "--config", str(run_dir / "configs" / "cold_start.yaml")]
    untrained = run_dir / "cold_start" / "untrained"
    return [Stage("cold_start", "Cold start", command), evaluation(run_dir, "untrained", untrained)]


def grpo_stages(config: RunConfig, start: Path) -> list[Stage]:
    """GRPO from `start`, and the policies before and after it on the held-out tasks."""
    run_dir = Path(config.run_dir)
    last = run_dir / "grpo" / "checkpoints" / f"step-{config.grpo.steps:06d}" / "policy"
    command = ["-m", "rl.grpo", "--config", str(run_dir / "configs" / "grpo.yaml")]
    before = evaluation(run_dir, "cold_start", start)
    return [before, Stage("grpo", "GRPO", command), evaluation(run_dir, "grpo", last)]


def evaluation(run_dir: Path, key: str, checkpoint: Path) -> Stage:
    config, out = run_dir / "configs" / f"eval_{key}.yaml", run_dir / "eval" / key
    command = ["-m", "rl.evaluate", "--config", str(config), "--checkpoint", str(checkpoint), "--out", str(out)]
    return Stage(f"eval_{key}", f"Evaluation: {EVALUATIONS[key]}", command)


def with_resume(stage: Stage, run_dir: Path) -> list[str]:
    """The stage's command, told to go on where an attempt that was broken off left something to go on from."""
    begun = {
        "cold_start": (run_dir / "cold_start" / "config.yaml").is_file(),
        "grpo": any((run_dir / "grpo" / "checkpoints").glob("step-*/state.pt")),
    }
    return [*stage.command, "--resume"] if begun.get(stage.key) else stage.command


def run_stage(stage: Stage, command: Sequence[str], ledger: Ledger, watch: MemoryWatch) -> None:
    """Run one stage to its end and write down what it took. SystemExit with its exit code where it fails."""
    begin = time.monotonic()
    watch.take_part()
    code = -1
    try:
        code = subprocess.run([sys.executable, *command], check=False).returncode
    finally:
        ledger.add(stage, time.monotonic() - begin, watch.take_part(), done=code == 0)
    if code != 0:
        print(
            f"demo stopped: {stage.title!r} failed with exit code {code}: python {' '.join(command)}", file=sys.stderr
        )
        raise SystemExit(code if code > 0 else 128 - code)  # a negative code is the signal that ended it


def collect(config: RunConfig, ledger: Ledger, start: Path, memory_unit: str) -> RunReport:
    """Read what the stages wrote, and write the replay pages beside the report."""
    from rl.journal import read_metrics  # loads torch, which the stages before had better use of

    run_dir = Path(config.run_dir)
    done = {key: name for key, name in EVALUATIONS.items() if ledger.is_done(f"eval_{key}")}
    stages = [read_evaluation(run_dir, key, name) for key, name in done.items()]
    links = {}
    for stage in stages:
        links[f"Replay: {stage.name}"] = stage.page
        write_replay(run_dir / stage.page, replay_choice(stage.trajectories), f"Held-out tasks, {stage.name}", config)
    trained = list(TrajectoryStore(run_dir / "grpo" / "trajectories").read())
    last = [item for item in trained if item.step == trained[-1].step]
    links["Replay: last GRPO step"] = "replay_training.html"
    write_replay(run_dir / "replay_training.html", last, f"GRPO, step {last[0].step}", config)
    folders = sorted((run_dir / "cold_start").glob("stage-*"), key=lambda path: int(path.name.split("-")[1]))
    cold = [(folder.name.split("-", 2)[2], read_metrics(folder / "metrics.jsonl")) for folder in folders]
    records = read_metrics(run_dir / "grpo" / "metrics.jsonl")
    grpo = grpo_charts(records, list(config.rewards), *stages[-2:])
    return RunReport(
        title=f"From {stages[0].name} to GRPO: finding and segmenting what a sentence refers to",
        sentence=sentence(config, stages, start),
        stages=stages,
        charts={"Cold start": cold_start_charts(cold), "GRPO": grpo} if cold else {"GRPO": grpo},
        links=links,
        phases=ledger.phases(),
        memory_unit=memory_unit,
        facts=data_facts(config, ledger) | facts_of(stages[-1].results["provenance"], config.seed),
        config_text=(run_dir / "configs" / "demo.yaml").read_text(),
    )


def read_evaluation(run_dir: Path, key: str, name: str) -> Evaluated:
    folder = run_dir / "eval" / key
    results = json.loads((folder / "results.json").read_text())
    return Evaluated(name, f"replay_{key}.html", results, list(TrajectoryStore(folder / "trajectories").read()))


def write_replay(path: Path, trajectories: Sequence[Trajectory], title: str, config: RunConfig) -> None:
    """A replay page; held-out trajectories, which carry no rewards, are scored as in training."""
    scored = [
        item
        if item.scores or item.stop_reason is StopReason.ERROR
        else replace(item, scores=score(item, config.rewards))
        for item in trajectories
    ]
    write_page(path, render_page(scored, title, config.rewards, FrameCache()))


def sentence(config: RunConfig, stages: Sequence[Evaluated], start: Path) -> str:
    """What was done, in one sentence."""
    steps = sum(stage.steps for stage in config.cold_start.stages)
    origin = "cold-started before (the shipped checkpoint)" if start == SHIPPED else f"cold-started for {steps} steps"
    grpo = config.grpo
    return (
        f"A policy of {num_parameters(start) / 1e6:.1f} million parameters that explores a video over up to "
        f"{config.env.max_turns} turns was {origin}, trained for {grpo.steps} steps of GRPO ({grpo.tasks_per_step} "
        f"tasks of {grpo.group_size} trajectories each), and judged at each stage on the same "
        f"{stages[0].results['num_tasks']} held-out tasks."
    )


def num_parameters(checkpoint: Path) -> int:
    """Weights in a checkpoint's files; only their headers are read."""
    total = 0
    for path in checkpoint.rglob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


def data_facts(config: RunConfig, ledger: Ledger) -> dict[str, str]:
    """Which data, and whether making it is part of the wall time."""
    facts = {}
    for name, root in (("train", config.data.train_root), ("heldout", config.data.eval_root)):
        labels = Path(root) / "moving_shapes.json"
        text = root
        if labels.is_file():
            found = json.loads(labels.read_text())
            text = f"{root}: Moving Shapes, {len(found['videos'])} videos of seed {found['seed']}"
        was_there = "" if f"data_{name}" in ledger.rows else " (was there before: not in the wall time)"
        facts[f"data, {name}"] = text + was_there
    return facts


def summary_table(report: RunReport) -> Table:
    """The report's main table for the terminal, narrow enough for 80 columns."""
    table = Table(
        title="Held-out tasks: percent, half-width of the 95 % interval below", box=SIMPLE_HEAD, collapse_padding=True
    )
    table.add_column("policy", no_wrap=True, min_width=max((len(stage.name) for stage in report.stages), default=0))
    for column in ("J&F", "blind", "J vis.", "blind", "int. IoU", "key", "format", "turns"):
        table.add_column(column, justify="right")
    for stage in report.stages:
        blind = stage.results.get("blind", {}).get("summary", {}).get("all", {})
        sighted = stage.results["sighted"]["summary"]["all"]
        cells = []
        for key in MEASURES:
            cells.append(half_width(sighted[key], 1 if key == "turns" else 100))
            if key in WITH_BLIND:
                cells.append(half_width(blind.get(key), 100))
        table.add_row(stage.name, *cells)
    return table


def half_width(triple: Sequence[float] | None, scale: int) -> str:
    if triple is None:
        return "-"
    mean, low, high = (scale * value for value in triple)
    return f"{mean:.{1 if scale > 1 else 2}f}\n\N{PLUS-MINUS SIGN}{(high - low) / 2:.1f}"


@command
def main() -> None:
    parser = argparse.ArgumentParser(description="Data, cold start, GRPO, evaluation of each stage, and a report.")
    add_config_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="skip stages that are done, go on within the others")
    parser.add_argument("--from-nothing", action="store_true", help="make the cold start instead of the shipped one")
    parser.add_argument("--train-videos", type=int, default=1200, help="videos generated for training")
    parser.add_argument("--eval-videos", type=int, default=60, help="videos generated for held-out tasks")
    args = parser.parse_args()
    config, console = config_from_args(args), Console(highlight=False)
    run_demo(config, args.from_nothing, args.resume, args.train_videos, args.eval_videos, console)


if __name__ == "__main__":
    main()
