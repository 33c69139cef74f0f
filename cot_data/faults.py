"""Handle the faults of a data set: a loader raises the first one, `cot_data.check` collects them all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from env.errors import DataError


class Faults:
    """Readers put each step that may fail into `with faults.collect():` and continue after it."""

    def __init__(self, keep: bool = False):
        """With `keep`, collected errors go to `found`, equal ones once; without it they are raised."""
        self._keep = keep
        self._found: dict[tuple[str, str], DataError] = {}

    @property
    def found(self) -> list[DataError]:
        """The collected errors, in the order in which they were found."""
        return list(self._found.values())

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Collect a DataError that ends the body, or raise it."""
        try:
            yield
        except DataError as error:
            if not self._keep:
                raise
            self._found.setdefault((error.where, error.problem), error)


RAISE = Faults()
