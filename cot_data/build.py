"""Make cold-start traces of any data set with masks: `python -m cot_data.build ROOT --dataset NAME --out FILE.json`.

Each trace is written from the masks, reworded by a teacher model if one is given (`--teacher`), and validated against
the masks. Tasks that fail are left out and listed in `<FILE>.left_out.json`. A trace refers to the frames that the
config's `env` shows: train with the same config. An interrupted build resumes when it is started again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
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
from cot_data.traces.candidates import Scene, build_scene
from cot_data.traces.reword import reword
from cot_data.traces.teacher import Teacher
from cot_data.traces.validate import find_faults
from cot_data.traces.visibility import visible_frames
from cot_data.traces.write import prose_turns, to_record
from env.errors import DataError, MachineError, command
from env.files import write_json
from env.folder_lock import lock_folder
from env.prompts import find_prompt, prompt_identity
from env.types import Task, names_in

CONCURRENT_REQUESTS = 8  # to the teacher
_ENV_KEYS = ("strip_frames", "detail_frames", "zoom_frames", "max_turns")  # of the config: traces depend on them


@dataclass(frozen=True)
class Draft:
    """A trace before rewording, or the reasons why there is none."""

    task_id: str
    built: Built
    scene: Scene | None = None


@dataclass(frozen=True)
class BuildOptions:
    """How to build traces."""

    config: EnvConfig
    seed: int = 0
    limit: int = 0  # build only the first tasks; 0 builds all
    teacher: Teacher | None = None
    source: dict[str, Any] = field(default_factory=dict)  # identifies the data set; a build resumes only with the same

    def settings(self) -> dict[str, Any]:
        """Return all settings that the traces depend on."""
        numbers = {name: value for name, value in asdict(self.config).items() if name in _ENV_KEYS}
        if self.config.tools != EnvConfig().tools:  # builds from before `env.tools` do not name the default ones
            numbers["tools"] = list(self.config.tools)
        if self.config.frame_rounding != EnvConfig().frame_rounding:
            numbers["frame_rounding"] = self.config.frame_rounding
        if self.config.prompt != "full":
            numbers["prompt"] = prompt_identity(self.config.prompt)
        model = self.teacher.model if self.teacher else ""
        return self.source | numbers | {"seed": self.seed, "limit": self.limit, "teacher": model}


def build(tasks: Tasks, out: Path, options: BuildOptions) -> list[Built]:
    """Write the traces of a data set to a JSON file.

    Args:
        tasks: the tasks of the data set.
        out: the file to write. If an interrupted build of it exists, it is continued.
        options: how to build them.

    Returns:
        The result of each task, in order.

    Raises:
        DataError: the interrupted build had other settings, or the teacher's endpoint gives no reply.
    """
    config, teacher = options.config, options.teacher
    journal = BuildJournal(out, options.settings())
    if teacher and journal.done:
        teacher.spent = journal.done[-1].spent
    rows = range(len(journal.done), min(options.limit or len(tasks), len(tasks)))
    with Progress(console=Console(stderr=True)) as bar, ThreadPoolExecutor(CONCURRENT_REQUESTS) as pool:
        job = bar.add_task("Traces", total=len(rows) + len(journal.done), completed=len(journal.done))
        for drafts in _batches(_drafts(tasks, rows, config, options.seed)):
            for built in pool.map(lambda draft: _reword_draft(draft, config, teacher), drafts):
                journal.add(built)
                bar.advance(job)
    _write_output(out, journal.done)
    journal.path.unlink()
    return journal.done


def _drafts(tasks: Tasks, rows: Sequence[int], config: EnvConfig, seed: int) -> Iterator[Draft]:
    """The traces of `rows` before rewording. A video's tasks are read together: each trace mentions the others."""
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
        return Draft(task_id, Built(task_id, None, ("its gold masks are unknown",)))
    scene = build_scene(
        task, [each for each in siblings.values() if isinstance(each, Task) and visible_frames(each.gold)]
    )
    thoughts = prose_turns(scene, config, np.random.default_rng([seed, row]))
    record = to_record(task, config, thoughts, _anno_ids(entry))
    faults = find_faults(record, scene, config)
    return Draft(task_id, Built(task_id, None if faults else record, tuple(faults)), scene)


def _reword_draft(draft: Draft, config: EnvConfig, teacher: Teacher | None) -> Built:
    """The draft in the teacher's words, if there is a teacher and its words are valid."""
    built = draft.built
    if teacher is None or built.record is None or draft.scene is None:
        return built
    reworded = reword(built.record, draft.scene, config, teacher)
    wording = {"record": reworded.record, "words_by": reworded.words_by, "rejected": reworded.faults}
    return replace(built, **wording, spent=teacher.spent)


def _anno_ids(entry: Entry) -> tuple[int | str, ...]:
    """Keys of the entry's masks in the mask dictionary; none for a data set without a dictionary."""
    ids = entry.gold.anno_ids if isinstance(entry.gold, TableGold) else ()
    return tuple(int(each) if each.isdecimal() else each for each in ids)


def _batches(drafts: Iterator[Draft]) -> Iterator[list[Draft]]:
    while batch := list(islice(drafts, CONCURRENT_REQUESTS)):
        yield batch


def _write_output(out: Path, done: Sequence[Built]) -> None:
    """Write the file of records atomically, and beside it the list of tasks that were left out."""
    write_records(out, [built.record for built in done if built.record])
    left_out = [{"task_id": built.task_id, "reasons": list(built.left_out)} for built in done if not built.record]
    listed = out.with_name(f"{out.stem}.left_out.json")
    listed.unlink(missing_ok=True)
    if left_out:
        write_json(listed, left_out)


def summary(out: Path, done: Sequence[Built], teacher: Teacher | None) -> str:
    """Return a few lines on the result of a build.

    Args:
        out: the file that was written.
        done: the result of each task.
        teacher: the model that reworded the traces, if any.

    Returns:
        Text for the console.
    """
    records = [built.record for built in done if built.record]
    turns = [turn for record in records for turn in record.gpt_turns]
    words = sum(len(turn.split()) for turn in turns)
    counts = ", ".join(
        f"{sum(len(record.gpt_turns) == count for record in records)} of {count}"
        for count in sorted({len(record.gpt_turns) for record in records})
    )
    lines = [
        f"{out}: {len(records)} valid traces of {len(done)} tasks",
        f"turns: {counts or 'none'}; {words / max(len(turns), 1):.0f} words each",
    ]
    if len(records) < len(done):
        lines.append(f"left out: {len(done) - len(records)}, see {out.with_name(f'{out.stem}.left_out.json')}")
    if teacher:
        reworded = sum(built.words_by == "teacher" for built in done)
        lines.append(f"reworded by {teacher.model}: {reworded}; {teacher.spent} tokens")
    return "\n".join(lines)


@command
def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Make cold-start traces of a data set with masks.")
    parser.add_argument(
        "root", type=Path, help="folder of the data set, or of its split: see cot_data/datasets/<NAME>.py"
    )
    parser.add_argument("--dataset", default="mevis", choices=DATASETS, help="its layout (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--seed", type=int, default=0, help="of the random choice of optional zooms")
    parser.add_argument("--limit", type=int, default=0, help="build only the first N tasks")
    parser.add_argument("--teacher", metavar="URL", help="OpenAI-compatible endpoint, such as http://localhost:8000/v1")
    parser.add_argument("--teacher-model", metavar="NAME", help="model at that endpoint")
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=0,
        help="cap on the teacher's tokens, of prompts and replies together (default: no cap)",
    )
    add_config_arguments(parser)
    args = parser.parse_args()
    if bool(args.teacher) != bool(args.teacher_model):
        parser.error("--teacher and --teacher-model must be given together")
    config = config_from_args(args).env
    if find_prompt(config.prompt).traces != "full":
        config = replace(config, prompt="full")  # these traces are sentences
    teacher = Teacher(args.teacher, args.teacher_model, args.max_tokens) if args.teacher else None
    tasks = load_tasks(args.dataset, args.root)
    source = {"root": str(args.root.absolute()), "dataset": args.dataset, "tasks": len(tasks)}
    with lock_folder(args.out.parent, f".{args.out.name}.lock"):
        if args.out.is_dir():
            raise MachineError(f"{args.out}: is a folder; name a JSON file in --out")
        done = build(tasks, args.out, BuildOptions(config, args.seed, args.limit, teacher, source))
    if teacher:
        teacher.close()
    print(summary(args.out, done, teacher))


if __name__ == "__main__":
    main()
