"""Tell which evaluation a folder belongs to, so that another one does not mix with its trajectories."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs.schema import EnvConfig, RunConfig
from cot_data.formats.json_fields import read_json
from env.errors import CheckpointError, DataError
from env.files import make_folder, write_json
from env.types import Task
from rl.families import FAMILIES, family_name
from rl.runtime.resume_rules import EVALUATION, FREE, RULES, Change, flat

STORES = {"sighted": "trajectories", "blind": "trajectories_blind"}


def claim(
    out: Path, config: RunConfig, checkpoint: Path, tasks: Sequence[Task], unreadable: Sequence[str] = ()
) -> None:
    """Write `out/evaluation.json`, or compare this evaluation with the one that is there.

    A task whose data could not be read, then or now, is not compared, so that an evaluation goes on once its data is
    repaired.

    Args:
        out: Folder of the evaluation; it is made where it is missing.
        config: Of the run. What the masks do not depend on (`eval.workers`, `eval.num_bootstrap`) may differ.
        checkpoint: Folder of the model.
        tasks: Everything that is to be segmented.
        unreadable: Ids of the tasks whose data cannot be read.

    Raises:
        DataError: The folder belongs to another evaluation, or holds trajectories without `evaluation.json`.
        CheckpointError: There is no checkpoint folder.
    """
    path = out / "evaluation.json"
    identity = _identity(config, checkpoint)
    identity["tasks"] = _identity_of_tasks(tasks, unreadable)
    if path.is_file():
        found = _read_identity(path)
        before, after = flat(_compared(found)), flat(_compared(identity))
        differing = [key for key in {**after, **before} if before.get(key) != after.get(key)]
        if not _has_same_tasks(found.get("tasks"), tasks, unreadable):
            before["tasks"], after["tasks"] = found.get("tasks"), identity["tasks"]
            differing.append("tasks")
        if differing:
            named = "; ".join(str(Change(key, before.get(key), after.get(key))) for key in differing)
            raise DataError(
                str(path), f"belongs to an evaluation with other settings: {named}; name another --out, or remove {out}"
            )
        if len(unreadable) < len(found["tasks"].get("unreadable", ())):
            write_json(path, identity)  # some data was repaired
        return
    for folder in STORES.values():
        if (out / folder).is_dir():
            raise DataError(
                str(out / folder),
                f"expected {path} beside it, which tells which evaluation it belongs to; "
                "name another --out, or remove it",
            )
    make_folder(out)
    write_json(path, identity)


def _identity(config: RunConfig, checkpoint: Path) -> dict[str, Any]:
    """Return what the masks depend on besides the tasks, as it reads in JSON."""
    family = family_name(checkpoint, config.policy.kind)
    identity = {
        "family": family,
        "checkpoint": _hash_files(checkpoint),
        **FAMILIES[family].identity(config, checkpoint),
        "eval": {"temperature": config.eval.temperature, "blind_zooms": config.eval.blind_zooms},
        "seed": config.seed,
    }
    return json.loads(json.dumps(identity))


def _compared(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity without the tasks, and without limits of time, on which no finished mask depends."""
    others = {key: value for key, value in identity.items() if key != "tasks"}
    env = identity.get("env")
    if not isinstance(env, Mapping):
        return others
    return {**others, "env": {key: value for key, value in env.items() if RULES[f"env.{key}"][EVALUATION] != FREE}}


def _identity_of_tasks(tasks: Sequence[Task], unreadable: Sequence[str]) -> dict[str, Any]:
    known = {"n": len(tasks) + len(unreadable), "sha256": _hash_tasks(tasks)}
    return known | ({"unreadable": sorted(unreadable)} if unreadable else {})


def _has_same_tasks(found: Any, tasks: Sequence[Task], unreadable: Sequence[str]) -> bool:
    """Return whether these are the tasks of an `evaluation.json`, as far as both could read them."""
    if not isinstance(found, Mapping) or found.get("n") != len(tasks) + len(unreadable):
        return False
    before = found.get("unreadable", [])
    if not set(unreadable) <= set(before):
        return True  # the data of further tasks is lost: there is nothing left to compare the hash with
    return found.get("sha256") == _hash_tasks([task for task in tasks if task.task_id not in before])


def _read_identity(path: Path) -> dict[str, Any]:
    """Return what `evaluation.json` says, in the words of this version.

    Older files name no family, since there was one, have no masks for malformed text, and call `eval.blind_zooms`
    "blind_looks". A key of `env` that is newer than the file has its default: that is how the environment behaved
    without it.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise DataError(str(path), f"expected a JSON object, found {type(found).__name__}; remove the folder")
    found = {"family": "videoseg", "malformed": "empty", **found}
    if isinstance(found.get("eval"), Mapping):
        renamed = {"blind_looks": "blind_zooms"}
        found["eval"] = {renamed.get(key, key): value for key, value in found["eval"].items()}
    if isinstance(found.get("env"), Mapping):
        found["env"] = json.loads(json.dumps(asdict(EnvConfig()))) | found["env"]
    return found


def _hash_files(folder: Path) -> str:
    """Return one SHA-256 over names and contents of a checkpoint's files; where they lie does not matter."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: expected a checkpoint folder, found none")
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        total.update(f"{path.relative_to(folder)} {digest.hexdigest()}\n".encode())
    return total.hexdigest()


def _hash_tasks(tasks: Sequence[Task]) -> str:
    total = hashlib.sha256()
    for task in tasks:
        total.update(repr(task).encode())
    return total.hexdigest()
