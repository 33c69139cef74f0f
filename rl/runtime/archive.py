"""Keep the files of an earlier run when a new one starts in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path

from configs.load import ConfigError
from env.files import machine_errors, make_folder


def set_aside(run_dir: Path, names: Sequence[str], start: Path) -> None:
    """Move the files of an earlier run into `<run_dir>/earlier-1`, or -2 and so on, whichever is free.

    The new run must not continue from them or mix with them, and a start without --resume by mistake must not destroy
    them.

    Args:
        run_dir: Folder of both runs.
        names: Names of the files and folders that a run writes, as glob patterns. They are moved in this order: with
            the first one in its place, a run can be resumed.
        start: Checkpoint folder of the policy that the new run begins with.

    Raises:
        ConfigError: `start` is among these files; a later --resume would not find it.
    """
    old = [path for name in names for path in sorted(run_dir.glob(name))]
    if any(start.resolve().is_relative_to(path.resolve()) for path in old):
        raise ConfigError(
            f"policy.path: {start} belongs to an earlier run in {run_dir}, whose files the new run would move away; "
            "give the new run a run_dir of its own, or continue the earlier one with --resume"
        )
    if old:
        folder = next(path for number in count(1) if not (path := run_dir / f"earlier-{number}").exists())
        make_folder(folder)
        with machine_errors(folder):
            for path in old:
                path.rename(folder / path.name)
