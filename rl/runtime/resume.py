"""The files that tell what a run is, `config.yaml` and `data.json`, and their comparison when it is resumed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from configs.load import ConfigError, config_text, load_config
from configs.schema import RunConfig
from env.errors import CheckpointError
from env.files import append_lines, write_json, write_text
from rl.runtime.data_identity import Identity, data_changes, read_identity
from rl.runtime.resume_rules import FIXED, RECORDED, Change, changes

CONFIG, DATA, CHANGES = "config.yaml", "data.json", "changes.jsonl"
_NAMED = 3  # most changes in a message


def write_start(run_dir: Path, config: RunConfig, data: Identity) -> None:
    """Write what a new run is. With `config.yaml`, which is written last, it can be resumed."""
    write_json(run_dir / DATA, data)
    write_text(run_dir / CONFIG, config_text(config))


def started_with(run_dir: Path) -> RunConfig:
    """Return the config of the run in a folder. CheckpointError where there is none, or a damaged one."""
    path = run_dir / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{run_dir}: nothing to resume from (no {CONFIG}); start without --resume")
    try:
        return load_config(path)
    except ConfigError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{reason}; put back the file that the run was started with") from error


def check_resume(run_dir: Path, config: RunConfig, command: int, data: Identity) -> list[Change]:
    """Compare the run in a folder with the config and the data that it is to be resumed with.

    Args:
        run_dir: Folder of the run.
        config: What the resumed run is given.
        command: Column of `rl.runtime.resume_rules.RULES`.
        data: Identity of the data that it would read.

    Returns:
        Changes that take effect from here on, for `record_resume`.

    Raises:
        CheckpointError: There is no such run, or it was started with other fixed settings or other tasks.
    """
    of_config = changes(started_with(run_dir), config, command)
    stored = read_identity(run_dir / DATA)
    of_data = data_changes(data if stored is None else stored, data)
    refuse(run_dir, of_config[FIXED] + of_data[FIXED])
    return of_config[RECORDED] + of_data[RECORDED]


def refuse(where: Path, fixed: Sequence[Change]) -> None:
    """Raise CheckpointError where there are changes; the message names the first ones."""
    if fixed:
        more = f", and {len(fixed) - _NAMED} more" if len(fixed) > _NAMED else ""
        raise CheckpointError(
            f"{where}: cannot be resumed with other settings: {'; '.join(map(str, fixed[:_NAMED]))}{more}; "
            "give the former ones, or start a new run in another folder"
        )


def record_resume(run_dir: Path, config: RunConfig, data: Identity, found: Sequence[Change], at: str) -> None:
    """Print the changes, add them to `changes.jsonl`, and make the new config and data those of the run.

    Args:
        run_dir: Folder of the run.
        config: What it is resumed with.
        data: Identity of the data.
        found: Result of `check_resume`.
        at: Where the run goes on, such as "step 4".
    """
    for change in found:
        print(f"from {at} on: {change}")
    if found:
        rows = [{"at": at, "key": change.key, "was": change.was, "now": change.now} for change in found]
        append_lines(run_dir / CHANGES, [json.dumps(row) + "\n" for row in rows])
    write_start(run_dir, config, data)
