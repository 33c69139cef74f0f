"""Run everything once: `python -m rl.demo --config tiny [--from-nothing] [--resume]`.

Makes the data, trains the shipped checkpoint by GRPO, evaluates it before and after, and writes a report. With
`--from-nothing` it also runs the cold start. Each stage is a process of its own, so that it has its own thread settings
and frees its memory.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

from configs.load import (
    ConfigError,
    add_config_arguments,
    check_command_line,
    config_from_args,
    config_text,
    load_config,
)

if __name__ == "__main__":
    check_command_line()  # a mistake ends the command here, before the imports below load torch

from rich.console import Console

from configs.schema import RunConfig
from cot_data.moving_shapes.labels_file import LABELS, size_and_seed
from env.errors import CheckpointError, DataError, command
from env.files import make_folder, write_text
from env.frames import FrameCache
from env.terminal import shown
from env.viewer.page import write_page
from policy import SHIPPED
from rl.report.collect import EVALUATIONS, collect, summary_table
from rl.report.page import render_report
from rl.runtime.archive import set_aside
from rl.runtime.memory import MemoryWatch
from rl.runtime.phases import Phase, PhaseLog, run_phase
from rl.runtime.preflight import prepare_machine
from rl.runtime.resume_rules import COLD_START, EVALUATION, FIXED, GRPO, RECORDED, changes

TRAIN_SEED, EVAL_SEED = 1, 2
# What a new start moves to a folder `earlier-N`; the data stay.
OWN = ("configs", "stages.json", "cold_start", "grpo", "eval", "*.html")


@dataclass(frozen=True)
class DemoOptions:
    """What the command line asks for besides the config."""

    from_nothing: bool  # run the cold start, instead of starting from the shipped checkpoint
    resume: bool  # skip finished stages and go on within the others
    num_train: int  # videos to generate for training
    num_eval: int  # videos to generate for held-out tasks


def run_demo(config: RunConfig, options: DemoOptions, console: Console) -> None:
    """Run all stages in order and write the report.

    Args:
        config: Of the run.
        options: Of the command line.
        console: Where progress is printed.

    Raises:
        SystemExit: A stage failed; the exit code is the stage's.
    """
    run_dir = Path(config.run_dir)
    start = run_dir / "cold_start" / "policy" if options.from_nothing else SHIPPED
    prepare(config, run_dir, start, options.resume)
    ledger = PhaseLog(run_dir)
    started = time.monotonic()
    with MemoryWatch() as watch:
        stages = data_stages(config, options.num_train, options.num_eval)
        stages += cold_start_stages(config) if options.from_nothing else []
        stages += grpo_stages(config, start)
        for stage in stages:
            if ledger.is_done(stage.key):
                console.print(shown(f"{stage.title}: already finished"))
                continue
            so_far = f" ({(time.monotonic() - started) / 60:.1f} min so far)"
            console.rule(shown(stage.title).append(so_far, style="dim"), align="left")
            run_phase(stage, with_resume(stage, run_dir) if options.resume else stage.command, ledger, watch)
        console.rule("Report", align="left")
        unit = watch.unit
    report = collect(config, ledger, start, unit)
    write_page(run_dir / "report.html", render_report(report, FrameCache()))
    console.print(summary_table(report))
    minutes = sum(phase.seconds for phase in report.phases) / 60
    peak = max(phase.peak_bytes for phase in report.phases) / 2**30
    console.print(f"{minutes:.1f} minutes, peak memory {peak:.2f} GiB ({unit}, all processes together)")
    console.print(shown(f"report: {run_dir / 'report.html'}"))


def prepare(config: RunConfig, run_dir: Path, start: Path, resume: bool) -> None:
    """Move an earlier demo away, or check that it can be resumed, and write the configs of the stages.

    Args:
        config: Of the run.
        run_dir: Its folder.
        start: Checkpoint that GRPO starts from.
        resume: Go on with the demo that is there.

    Raises:
        CheckpointError: There is nothing to resume, or it was started with other arguments.
    """
    saved = run_dir / "configs" / "demo.yaml"
    if resume and not saved.is_file():
        raise CheckpointError(f"{run_dir}: nothing to resume from (no configs/demo.yaml); start without --resume")
    if resume:
        _check_demo(saved, config, start)
    if not resume:
        set_aside(run_dir, OWN, SHIPPED)
    make_folder(saved.parent)
    write_text(saved.with_name("cold_start.yaml"), config_text(replace(config, run_dir=str(run_dir / "cold_start"))))
    policy = replace(config.policy, path=str(start))
    write_text(saved.with_name("grpo.yaml"), config_text(replace(config, run_dir=str(run_dir / "grpo"), policy=policy)))
    for key in EVALUATIONS:
        out = run_dir / "eval" / key
        make_folder(out)
        write_text(saved.with_name(f"eval_{key}.yaml"), config_text(replace(config, run_dir=str(out))))
        write_text(out / "config.yaml", config_text(replace(config, run_dir=str(out))))  # which env.replay reads
    write_text(saved, config_text(config))  # last: with it the demo can be resumed


def _check_demo(saved: Path, config: RunConfig, start: Path) -> None:
    """Raise CheckpointError where a demo was started with another config or another choice of --from-nothing."""
    try:
        before, grpo = load_config(saved), load_config(saved.with_name("grpo.yaml"))
    except ConfigError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{reason}; put back that file, or start without --resume") from error
    if grpo.policy.path != str(start):
        raise CheckpointError(
            f"{saved.parents[1]}: started with the other --from-nothing; repeat that choice, or start anew"
        )
    commands, kinds = (GRPO, COLD_START, EVALUATION), (FIXED, RECORDED)
    differing = {str(each) for command in commands for kind in kinds for each in changes(before, config, command)[kind]}
    if differing:
        raise CheckpointError(
            f"{saved}: differs from the given config ({'; '.join(sorted(differing))}); "
            "give the same one, or start without --resume"
        )


def data_stages(config: RunConfig, num_train: int, num_eval: int) -> list[Phase]:
    """Return the stages that generate Moving Shapes, for data roots that do not hold their data yet.

    Args:
        config: Of the run, with the data roots.
        num_train: Videos for training.
        num_eval: Videos for held-out tasks.

    Returns:
        At most two stages.
    """
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
    """Return whether a split is there. A data set of the user's own (without moving_shapes.json) is taken as it is.

    Args:
        root: Folder of the split.
        num_videos: Expected of Moving Shapes.
        seed: Expected of Moving Shapes.

    Returns:
        Whether nothing needs to be generated.

    Raises:
        DataError: The folder holds Moving Shapes of another size or seed.
    """
    labels = root / LABELS
    if not (root / "meta_expressions.json").is_file():  # written last
        return False
    if not labels.is_file():
        return True
    found_videos, found_seed = size_and_seed(root)
    if (found_videos, found_seed) != (num_videos, seed):
        raise DataError(
            str(labels),
            f"expected {num_videos} videos of seed {seed}, found {found_videos} of seed {found_seed}; "
            "remove the folder, or name another with --set data.train_root / data.eval_root",
        )
    return True


def cold_start_stages(config: RunConfig) -> list[Phase]:
    """Return two stages: the cold start, and the untrained policy on the held-out tasks."""
    run_dir = Path(config.run_dir)
    command = ["-m", "rl.sft_coldstart", "--config", str(run_dir / "configs" / "cold_start.yaml")]
    untrained = run_dir / "cold_start" / "untrained"
    return [Phase("cold_start", "Cold start", command), evaluation(run_dir, "untrained", untrained)]


def grpo_stages(config: RunConfig, start: Path) -> list[Phase]:
    """Return three stages: GRPO from `start`, and the policies before and after it on the held-out tasks."""
    run_dir = Path(config.run_dir)
    last = run_dir / "grpo" / "checkpoints" / f"step-{config.grpo.steps:06d}" / "policy"
    command = ["-m", "rl.grpo", "--config", str(run_dir / "configs" / "grpo.yaml")]
    before = evaluation(run_dir, "cold_start", start)
    return [before, Phase("grpo", "GRPO", command), evaluation(run_dir, "grpo", last)]


def evaluation(run_dir: Path, key: str, checkpoint: Path) -> Phase:
    """Return the stage that evaluates a checkpoint.

    Args:
        run_dir: Folder of the run.
        key: Of `EVALUATIONS`; results go to `eval/<key>`.
        checkpoint: Folder of the model.

    Returns:
        The stage.
    """
    config, out = run_dir / "configs" / f"eval_{key}.yaml", run_dir / "eval" / key
    command = ["-m", "rl.evaluate", "--config", str(config), "--checkpoint", str(checkpoint), "--out", str(out)]
    return Phase(f"eval_{key}", f"Evaluation: {EVALUATIONS[key]}", command)


def with_resume(stage: Phase, run_dir: Path) -> list[str]:
    """Return the stage's command, with --resume where an interrupted attempt left something to resume from."""
    begun = {
        "cold_start": (run_dir / "cold_start" / "config.yaml").is_file(),
        "grpo": (run_dir / "grpo" / "config.yaml").is_file(),
    }
    return [*stage.command, "--resume"] if begun.get(stage.key) else stage.command


@command
def main() -> None:
    parser = argparse.ArgumentParser(description="Data, cold start, GRPO, evaluation of each stage, and a report.")
    add_config_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="skip finished stages, and go on within the others")
    parser.add_argument("--from-nothing", action="store_true", help="run the cold start, not only GRPO")
    parser.add_argument("--train-videos", type=int, default=1200, help="videos generated for training")
    parser.add_argument("--eval-videos", type=int, default=60, help="videos generated for held-out tasks")
    args = parser.parse_args()
    options = DemoOptions(args.from_nothing, args.resume, args.train_videos, args.eval_videos)
    config = config_from_args(args)
    with prepare_machine(Path(config.run_dir), uses_ray=True, resume=args.resume):
        run_demo(config, options, Console(highlight=False))


if __name__ == "__main__":
    main()
