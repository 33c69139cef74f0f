"""Run a part of a step again without the trajectories whose data cannot be read.

Data is read in the middle of a forward pass over many trajectories. The bad ones are looked for only when a pass has
failed, so that a step whose data can be read pays nothing, and the numbers of the others are those of a step that never
had the bad ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from env.errors import DataError

T = TypeVar("T")


def without_unreadable(run: Callable[[], T], drop: Callable[[], int]) -> T:
    """Return the result of `run`, repeated after each `drop` as long as data cannot be read.

    Args:
        run: Raises DataError for data that cannot be read.
        drop: Removes the trajectories that need such data from the next `run`, and returns how many these are.

    Raises:
        DataError: `run` failed twice, and `drop` found nothing to remove.
    """
    has_repeated = False  # without a reason found: a network drive may have had a pause
    while True:
        try:
            return run()
        except DataError:
            if not drop():
                if has_repeated:
                    raise
                has_repeated = True
