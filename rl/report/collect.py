"""Read what the stages of a run wrote, for its report: evaluations, curves, times and a summary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text
from safetensors import safe_open

from configs.schema import RunConfig
from cot_data.formats.json_fields import read_json
from cot_data.moving_shapes.labels_file import LABELS, size_and_seed
from env.frames import FrameCache
from env.store import TrajectoryStore
from env.terminal import shown
from env.types import StopReason, Trajectory
from env.viewer.page import render_page, write_page
from env.viewer.table import plain
from policy import SHIPPED
from rewards import score
from rl.report.mask_strips import replay_choice
from rl.report.metric_rows import METRICS, WITH_BLIND, Evaluated, failure_notes
from rl.report.page import RunReport, facts_of
from rl.report.training_curves import cold_start_charts, grpo_charts, with_present_names
from rl.runtime.phases import PhaseLog

EVALUATIONS = {"untrained": "untrained", "cold_start": "cold-started", "grpo": "GRPO-trained"}


def collect(config: RunConfig, ledger: PhaseLog, start: Path, memory_unit: str) -> RunReport:
    """Read what the stages wrote, and write the replay pages beside the report.

    Args:
        config: Of the run.
        ledger: Its stages, with what they took.
        start: Checkpoint that GRPO started from.
        memory_unit: Of the ledger's peaks: PSS or RSS.

    Returns:
        The contents of the report.
    """
    from rl.runtime.journal import read_metrics  # imports torch: not before the stages, which need the memory

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
    records = [with_present_names(record) for record in read_metrics(run_dir / "grpo" / "metrics.jsonl")]
    grpo = grpo_charts(records, list(config.rewards), *stages[-2:])
    return RunReport(
        title=f"From {stages[0].name} to GRPO: finding and segmenting what a sentence refers to",
        sentence=sentence(config, stages, start),
        stages=stages,
        charts={"Cold start": cold_start_charts(cold), "GRPO": grpo} if cold else {"GRPO": grpo},
        links=links,
        phases=ledger.costs(),
        memory_unit=memory_unit,
        facts=data_facts(config, ledger) | facts_of(stages[-1].results["provenance"], config.seed),
        config_text=(run_dir / "configs" / "demo.yaml").read_text(),
    )


def read_evaluation(run_dir: Path, key: str, name: str) -> Evaluated:
    """Read the evaluation `eval/<key>` of a run.

    Args:
        run_dir: Folder of the run.
        key: Of `EVALUATIONS`.
        name: Of the policy, as the report calls it.

    Returns:
        Its results and its trajectories.
    """
    folder = run_dir / "eval" / key
    results = read_json(folder / "results.json")
    return Evaluated(name, f"replay_{key}.html", results, list(TrajectoryStore(folder / "trajectories").read()))


def write_replay(path: Path, trajectories: Sequence[Trajectory], title: str, config: RunConfig) -> None:
    """Write a replay page. Held-out trajectories, which carry no rewards, are scored as in training.

    Args:
        path: Of the page.
        trajectories: What it shows. Those that ended in an error are not scored.
        title: Of the page.
        config: Of the run, with the weights of the rewards.
    """
    scored = [
        item
        if item.scores or item.stop_reason is StopReason.ERROR
        else replace(item, scores=score(item, config.rewards))
        for item in trajectories
    ]
    write_page(path, render_page(scored, title, config.rewards, FrameCache()))


def sentence(config: RunConfig, stages: Sequence[Evaluated], start: Path) -> str:
    """Describe the run in one sentence.

    Args:
        config: Of the run.
        stages: Its evaluations.
        start: Checkpoint that GRPO started from.

    Returns:
        The sentence.
    """
    steps = sum(stage.steps for stage in config.cold_start.stages)
    is_shipped = start == SHIPPED
    origin = "taken from the shipped cold start" if is_shipped else f"cold-started for {steps} steps"
    grpo = config.grpo
    return (
        f"A policy of {num_parameters(start) / 1e6:.1f} million parameters that explores a video over up to "
        f"{config.env.max_turns} turns was {origin}, trained for {grpo.steps} steps of GRPO ({grpo.tasks_per_step} "
        f"tasks of {grpo.group_size} trajectories each), and evaluated at each stage on the same "
        f"{stages[0].results['num_tasks']} held-out tasks."
    )


def num_parameters(checkpoint: Path) -> int:
    """Count the weights in a checkpoint's files; only the headers are read."""
    total = 0
    for path in checkpoint.rglob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


def data_facts(config: RunConfig, ledger: PhaseLog) -> dict[str, str]:
    """Describe the data, and say whether making it is part of the wall time."""
    facts = {}
    for name, root in (("train", config.data.train_root), ("heldout", config.data.eval_root)):
        text = root
        if (Path(root) / LABELS).is_file():
            num_videos, seed = size_and_seed(Path(root))
            text = f"{root}: Moving Shapes, {num_videos} videos of seed {seed}"
        was_there = "" if f"data_{name}" in ledger.rows else " (made before; not in the wall time)"
        facts[f"data, {name}"] = text + was_there
    return facts


def summary_table(report: RunReport) -> Table:
    """Return the report's main table for the terminal, narrow enough for 80 columns."""
    table = Table(
        title="Held-out tasks in percent, half-width of the 95 % interval below",
        box=SIMPLE_HEAD,
        collapse_padding=True,
    )
    table.add_column("policy", no_wrap=True, min_width=max((len(stage.name) for stage in report.stages), default=0))
    for column in ("J&F", "blind", "J vis.", "blind", "int. IoU", "key", "format", "turns"):
        table.add_column(column, justify="right")
    for stage in report.stages:
        blind = stage.results.get("blind", {}).get("summary", {}).get("all", {})
        sighted = stage.results["sighted"]["summary"]["all"]
        cells = []
        for key in METRICS:
            cells.append(half_width(sighted[key], 1 if key == "turns" else 100))
            if key in WITH_BLIND:
                cells.append(half_width(blind.get(key), 100))
        table.add_row(shown(stage.name), *cells)
    table.caption = Text("\n".join(map(plain, failure_notes(report.stages)))) or None
    return table


def half_width(triple: Sequence[float] | None, scale: int) -> str:
    """Format a mean times `scale` with the half-width of its interval; "-" where the metric does not apply."""
    if triple is None:
        return "-"
    mean, low, high = (scale * value for value in triple)
    return f"{mean:.{1 if scale > 1 else 2}f}\n\N{PLUS-MINUS SIGN}{(high - low) / 2:.1f}"
