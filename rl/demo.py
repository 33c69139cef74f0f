"""The main job: data, GRPO from the shipped checkpoint, evaluation before and after it, report; with `--from-nothing`
the cold start too. `python -m rl.demo --config tiny [--from-nothing] [--resume]`

Each stage is a process of its own, so that it has its own thread settings and gives its memory back.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

from configs.load import add_config_arguments, check_command_line, config_from_args, load_config, save_config

if __name__ == "__main__":
    check_command_line()  # a mistake ends the command here, before the imports below load torch

from rich.console import Console

from configs.schema import RunConfig
from env.errors import CheckpointError, DataError, command
from env.frames import FrameCache
from env.viewer.page import write_page
from policy import SHIPPED
from rl.report.collect import EVALUATIONS, collect, summary_table
from rl.report.page import (
    render_report,
)
from rl.runtime.archive import set_aside
from rl.runtime.memory import MemoryWatch
from rl.runtime.phases import Phase, PhaseLog, run_phase

TRAIN_SEED, EVAL_SEED = 1, 2
# What a new start sets aside; the data stay.
OWN = ("cold_start", "grpo", "eval", "configs", "stages.json", "*.html")


def run_demo(
    config: RunConfig, from_nothing: bool, resume: bool, num_train: int, num_eval: int, console: Console
) -> None:
    """All stages in order, then the report. SystemExit with the stage's exit code where one fails."""
    run_dir = Path(config.run_dir)
    start = run_dir / "cold_start" / "policy" if from_nothing else SHIPPED
    prepare(config, run_dir, start, resume)
    ledger = PhaseLog(run_dir)
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
            run_phase(stage, with_resume(stage, run_dir) if resume else stage.command, ledger, watch)
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


def data_stages(config: RunConfig, num_train: int, num_eval: int) -> list[Phase]:
    """Moving Shapes where the data roots do not hold their data yet."""
    splits = (
        ("train", config.data.train_root, num_train, TRAIN_SEED),
        ("heldout", config.data.eval_root, num_eval, EVAL_SEED),
    )
    return [
        Phase(
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


def cold_start_stages(config: RunConfig) -> list[Phase]:
    """The cold start, and the untrained policy on the held-out tasks."""
    run_dir = Path(config.run_dir)
    command = ["-m", "rl.sft_coldstart", "--config", str(run_dir / "configs" / "cold_start.yaml")]
    untrained = run_dir / "cold_start" / "untrained"
    return [Phase("cold_start", "Cold start", command), evaluation(run_dir, "untrained", untrained)]


def grpo_stages(config: RunConfig, start: Path) -> list[Phase]:
    """GRPO from `start`, and the policies before and after it on the held-out tasks."""
    run_dir = Path(config.run_dir)
    last = run_dir / "grpo" / "checkpoints" / f"step-{config.grpo.steps:06d}" / "policy"
    command = ["-m", "rl.grpo", "--config", str(run_dir / "configs" / "grpo.yaml")]
    before = evaluation(run_dir, "cold_start", start)
    return [before, Phase("grpo", "GRPO", command), evaluation(run_dir, "grpo", last)]


def evaluation(run_dir: Path, key: str, checkpoint: Path) -> Phase:
    config, out = run_dir / "configs" / f"eval_{key}.yaml", run_dir / "eval" / key
    command = ["-m", "rl.evaluate", "--config", str(config), "--checkpoint", str(checkpoint), "--out", str(out)]
    return Phase(f"eval_{key}", f"Evaluation: {EVALUATIONS[key]}", command)


def with_resume(stage: Phase, run_dir: Path) -> list[str]:
    """The stage's command, told to go on where an attempt that was broken off left something to go on from."""
    begun = {
        "cold_start": (run_dir / "cold_start" / "config.yaml").is_file(),
        "grpo": any((run_dir / "grpo" / "checkpoints").glob("step-*/state.pt")),
    }
    return [*stage.command, "--resume"] if begun.get(stage.key) else stage.command


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
