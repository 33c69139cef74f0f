"""What becomes of an earlier run where another one starts anew in its folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

EARLIER = "earlier"


def set_aside(run_dir: Path, names: Sequence[str]) -> None:
    """Move what is there under these names (globs) into `<run_dir>/earlier`, in place of what an older run left there.

    The new run must neither go on from it nor mix with it, and a start without --resume by mistake must not cost it.
    """
    left = [path for name in names for path in sorted(run_dir.glob(name))]
    if left:
        shutil.rmtree(run_dir / EARLIER, ignore_errors=True)
        (run_dir / EARLIER).mkdir()
        for path in left:
            path.rename(run_dir / EARLIER / path.name)
