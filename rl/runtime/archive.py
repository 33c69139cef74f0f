"""What becomes of an earlier run where another one starts anew in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path

from configs.load import ConfigError


def set_aside(run_dir: Path, names: Sequence[str], start: Path) -> None:
    """Move what is there under these names (globs) into `<run_dir>/earlier-1`, or -2 and so on, whichever is free.

    The new run must neither go on from it nor mix with it, and a start without --resume by mistake must not cost it.
    ConfigError where `start`, the policy that the new run begins with, would go too: a later --resume looks for it.
    """
    left = [path for name in names for path in sorted(run_dir.glob(name))]
    if any(start.resolve().is_relative_to(path.resolve()) for path in left):
        raise ConfigError(
            f"policy.path: {start} is of an earlier run in {run_dir}, whose files this one would move away; "
            "give the new run a run_dir of its own, or go on with the earlier one by --resume"
        )
    if left:
        folder = next(path for number in count(1) if not (path := run_dir / f"earlier-{number}").exists())
        folder.mkdir()
        for path in left:
            path.rename(folder / path.name)
