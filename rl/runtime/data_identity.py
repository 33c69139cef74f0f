"""The data that a run trains on, as a few hashes in `data.json`, so that a resume notices other tasks or masks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.schema import SourceConfig
from cot_data.formats.mask_table import TableGold
from cot_data.tasks import Entry, Tasks
from env.errors import CheckpointError, DataError
from env.json_text import parse_json
from env.store import TrajectoryStore
from rl.runtime.resume_rules import FIXED, RECORDED, Change

Identity = dict[str, dict[str, Any]]  # data set -> "tasks", "outlines", "traces", "only", "files"


def data_identity(sources: Sequence[SourceConfig], parts: Sequence[Tasks]) -> Identity:
    """Return what identifies the data sets of a run.

    Args:
        sources: Data sets as the config names them.
        parts: Their tasks.

    Returns:
        `data.train.<number>` -> the number of tasks, one SHA-256 of what their metadata says, those of the files that
        the config names, and name -> SHA-256 of every metadata file and mask dictionary. Frames and PNG masks are not
        read.
    """
    identity: Identity = {}
    for number, (source, tasks) in enumerate(zip(sources, parts, strict=True)):
        identity[f"data.train.{number}"] = {
            "tasks": len(tasks),
            "outlines": _hash(repr(outline).encode() for outline in tasks.outlines),
            "traces": _hash_file(Path(source.traces)) if source.traces else "",
            "only": _hash_file(Path(source.only)) if source.only else "",
            "files": {path.name: _hash_file(path) for path in _annotations(tasks.entries)},
        }
    return identity


def data_changes(old: Mapping[str, Any], new: Identity) -> dict[str, list[Change]]:
    """Return what differs between two identities.

    The order of tasks decides what a step trains on, so other tasks are FIXED. Other content of the same tasks, such as
    a repaired mask, is RECORDED.
    """
    found: dict[str, list[Change]] = {FIXED: [], RECORDED: []}
    for key in {**old, **new}:
        before, after = old.get(key, {}), new.get(key, {})
        for name in ("tasks", "outlines", "traces", "only"):
            if before.get(name) != after.get(name):
                found[FIXED].append(Change(f"{key}, {name}", before.get(name), after.get(name)))
        files = before.get("files", {}), after.get("files", {})
        for name in sorted({*files[0], *files[1]}):
            if files[0].get(name) != files[1].get(name):
                found[RECORDED].append(Change(f"{key}, {name}", files[0].get(name), files[1].get(name)))
    return found


def check_trained_tasks(store: TrajectoryStore, parts: Sequence[Tasks]) -> None:
    """Raise CheckpointError where a task that a run has trained on has other frames or masks now.

    The run's store has one form of every task, so that its rewards can be computed again.
    """
    stored = store.tasks().keys()
    for part in parts:
        for at, outline in enumerate(part.outlines):
            if outline.task_id in stored and not _is_as_stored(store, part, at):
                raise CheckpointError(
                    f"{store.tasks_path}: the run has trained on task {outline.task_id}, which has other frames or "
                    "masks now; put the former ones back, or start a new run in another folder"
                )


def _is_as_stored(store: TrajectoryStore, part: Tasks, at: int) -> bool:
    """Return whether a task is the stored one. One that cannot be read now fails when it is sampled, and alone."""
    try:
        return store.accepts(part[at])
    except DataError:
        return True


def read_identity(path: Path) -> dict[str, Any] | None:
    """Return the identity in a `data.json`; None where an older version wrote none. CheckpointError if damaged."""
    if not path.is_file():
        return None
    try:
        found = parse_json(path.read_bytes())
        if not isinstance(found, dict) or not all(isinstance(part, dict) for part in found.values()):
            raise ValueError("not an object of objects")
    except ValueError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}); remove it to take the data as they are now"
        ) from error
    return found


def _annotations(entries: Iterable[Entry]) -> list[Path]:
    """Return the metadata files and mask dictionaries that the entries of a data set are read from."""
    found = {Path(entry.where.partition(": ")[0]) for entry in entries}
    found |= {entry.gold.table.source for entry in entries if isinstance(entry.gold, TableGold)}
    return sorted(path for path in found if path.is_file())


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash(parts: Iterable[bytes]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()
