"""Make cold-start traces of any data set with masks: `python -m cot_data.build ROOT --dataset NAME --out FILE.json`.

Each trace is written from the masks, worded anew by a teacher model where there is one (`--teacher`), and validated
against the masks; what fails is left out and listed in `<FILE>.left_out.json`. The frames that a trace speaks of are
those of the config's `env`: train with the same one. An interrupted build goes on where it stopped when started again.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from configs.load import add_config_arguments, config_from_args
from configs.schema import EnvConfig
from cot_data.datasets import DATASETS, load_tasks
from cot_data.formats.mask_table import TableGold
from cot_data.formats.vts_cot import write_records
from cot_data.tasks import Entry, Tasks
from cot_data.traces.build_journal import BuildJournal, Built
from cot_data.traces.candidates import Scene, scene_of
from cot_data.traces.reword import reword
from cot_data.traces.teacher import Teacher
from cot_data.traces.validate import faults_of
from cot_data.traces.visibility import visible_frames
from cot_data.traces.write import explore, to_record
from env.errors import DataError, command
from env.types import Task, names_in

AT_ONCE = 8  # requests to the teacher
_ENV_NUMBERS = ("strip_frames", "detail_frames", "zoom_frames", "max_turns")  # of the config, that traces depend on


@dataclass(frozen=True)
class Draft:
    """A trace in its own words, or the reasons why there is none."""

    task_id: str
    built: Built
    scene: Scene | None = None


def build(
    tasks: Tasks, out: Path, config: EnvConfig, seed: int, limit: int, teacher: Teacher | None, settings: dict[str, Any]
) -> list[Built]:
    """Write the traces of `tasks` (the first `limit`, 0 is all) to `out`; `settings` say what else they depend on."""
    numbers = {name: value for name, value in asdict(config).items() if name in _ENV_NUMBERS}
    if config.tools != EnvConfig().tools:  # builds from before `env.tools` do not name the default ones
        numbers["tools"] = list(config.tools)
    model = teacher.model if teacher else ""
    journal = BuildJournal(out, settings | numbers | {"seed": seed, "limit": limit, "teacher": model})
    if teacher and journal.done:
        teacher.spent = journal.done[-1].spent
    rows = range(len(journal.done), min(limit or len(tasks), len(tasks)))
    try:
        with Progress(console=Console(stderr=True)) as bar, ThreadPoolExecutor(AT_ONCE) as pool:
            job = bar.add_task("Traces", total=len(rows) + len(journal.done), completed=len(journal.done))
            for drafts in _batches(_drafts(tasks, rows, config, seed)):
                for built in pool.map(lambda draft: _worded(draft, config, teacher), drafts):
                    journal.add(built)
                    bar.advance(job)
    finally:
        journal.close()
    _finish(out, journal.done)
    journal.path.unlink()
    return journal.done


def _drafts(tasks: Tasks, rows: Sequence[int], config: EnvConfig, seed: int) -> Iterator[Draft]:
    """The traces of `rows` in their own words; tasks of one video are read together, for they tell of each other."""
    by_video: dict[str, list[int]] = {}
    for row, outline in enumerate(tasks.outlines):
        by_video.setdefault(names_in(outline.task_id)[0], []).append(row)
    video, siblings = None, {}
    for row in rows:
        name = names_in(tasks.entries[row].outline.task_id)[0]
        if name != video:
            video, siblings = name, {each: _read(tasks.entries[each]) for each in by_video[name]}
        yield _draft(tasks.entries[row], siblings, row, config, seed)


def _read(entry: Entry) -> Task | DataError:
    try:
        return entry.task()
    except DataError as error:
        return error


def _draft(entry: Entry, siblings: dict[int, Task | DataError], row: int, config: EnvConfig, seed: int) -> Draft:
    task, task_id = siblings[row], entry.outline.task_id
    if isinstance(task, DataError):
        return Draft(task_id, Built(task_id, None, (str(task),)))
    if not task.gold:
        return Draft(task_id, Built(task_id, None, ("its masks are not known",)))
    scene = scene_of(task, [each for each in siblings.values() if isinstance(each, Task) and visible_frames(each.gold)])
    thoughts = explore(scene, config, np.random.default_rng([seed, row]))
    record = to_record(task, config, thoughts, _anno_ids(entry))
    faults = faults_of(record, scene, config)
    return Draft(task_id, Built(task_id, None if faults else record, tuple(faults)), scene)


def _worded(draft: Draft, config: EnvConfig, teacher: Teacher | None) -> Built:
    """The draft in the teacher's words, where there is a teacher and those hold."""
    built = draft.built
    if teacher is None or built.record is None or draft.scene is None:
        return built
    told = reword(built.record, draft.scene, config, teacher)
    return replace(built, record=told.record, words_by=told.words_by, rejected=told.faults, spent=teacher.spent)


def _anno_ids(entry: Entry) -> tuple[int | str, ...]:
    """Keys of the mask dictionary; a data set without one has none."""
    ids = entry.gold.anno_ids if isinstance(entry.gold, TableGold) else ()
    return tuple(int(each) if each.isdecimal() else each for each in ids)


def _batches(drafts: Iterator[Draft]) -> Iterator[list[Draft]]:
    batch: list[Draft] = []
    for draft in drafts:
        batch.append(draft)
        if len(batch) == AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _finish(out: Path, done: Sequence[Built]) -> None:
    """The file of records, whole or not at all, and beside it what was left out."""
    temporary = out.with_name(f"{out.name}.tmp")
    write_records(temporary, [built.record for built in done if built.record])
    os.replace(temporary, out)
    left_out = [{"task_id": built.task_id, "reasons": list(built.left_out)} for built in done if not built.record]
    listed = out.with_name(f"{out.stem}.left_out.json")
    listed.unlink(missing_ok=True)
    if left_out:
        listed.write_text(json.dumps(left_out, indent=1) + "\n", encoding="utf-8")


def summary(out: Path, done: Sequence[Built], teacher: Teacher | None) -> str:
    """What was made, in a few lines."""
    records = [built.record for built in done if built.record]
    turns = [turn for record in records for turn in record.gpt_turns]
    words = sum(len(turn.split()) for turn in turns)
    looks = ", ".join(
        f"{sum(len(record.gpt_turns) == count for record in records)} of {count}"
        for count in sorted({len(record.gpt_turns) for record in records})
    )
    lines = [
        f"{out}: {len(records)} traces of {len(done)} tasks pass the validator",
        f"turns: {looks or 'none'}; {words / max(len(turns), 1):.0f} words each",
    ]
    if len(records) < len(done):
        lines.append(f"left out: {len(done) - len(records)}, see {out.with_name(f'{out.stem}.left_out.json')}")
    if teacher:
        worded = sum(built.words_by == "teacher" for built in done)
        lines.append(f"in the words of {teacher.model}: {worded}; {teacher.spent} tokens")
    return "\n".join(lines)


@command
def main() -> None:
    parser = argparse.ArgumentParser(description="Make cold-start traces of a data set with masks.")
    parser.add_argument("root", type=Path, help="folder of the data set, or of its split: see cot_data/<NAME>.py")
    parser.add_argument("--dataset", default="mevis", choices=DATASETS, help="its layout (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--seed", type=int, default=0, help="of the choice to look closer where nothing is open")
    parser.add_argument("--limit", type=int, default=0, help="only so many tasks, the first ones")
    parser.add_argument("--teacher", metavar="URL", help="OpenAI-compatible endpoint, as http://localhost:8000/v1")
    parser.add_argument("--teacher-model", metavar="NAME", help="model of that endpoint")
    parser.add_argument("--max-tokens", type=int, default=0, help="cap on the teacher's tokens, prompts and replies")
    add_config_arguments(parser)
    args = parser.parse_args()
    if bool(args.teacher) != bool(args.teacher_model):
        parser.error("--teacher and --teacher-model go together")
    config = replace(config_from_args(args).env, prompt="full")
    teacher = Teacher(args.teacher, args.teacher_model, args.max_tokens) if args.teacher else None
    tasks = load_tasks(args.dataset, args.root)
    settings = {"root": str(args.root.absolute()), "dataset": args.dataset, "tasks": len(tasks)}
    done = build(tasks, args.out, config, args.seed, args.limit, teacher, settings)
    if teacher:
        teacher.close()
    print(summary(args.out, done, teacher))


if __name__ == "__main__":
    main()
