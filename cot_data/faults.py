"""Where the faults of a data set go: a loader raises the first one, `cot_data.check` keeps them all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from env.errors import DataError


class Faults:
    """Readers put each step that may fail into `with faults.noted():` and go on behind it."""

    def __init__(self, keep: bool = False):
        """`keep` collects what is noted in `found`, each fault once; else it is raised."""
        self._keep = keep
        self._found: dict[tuple[str, str], DataError] = {}

    @property
    def found(self) -> list[DataError]:
        return list(self._found.values())

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Take the DataError that ends the body."""
        try:
            yield
        except DataError as error:
            if not self._keep:
                raise
            self._found.setdefault((error.where, error.problem), error)


RAISE = Faults()
