"""Handle the faults of a data set: a loader raises the first one, `cot_data.check` collects them all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from env.errors import DataError


class Faults:
    """Readers put each step that may fail into `with faults.collect():` and continue after it."""

    def __init__(self, keep: bool = False, decode: float = 1.0):
        """With `keep`, collected errors go to `found`, equal ones once; without it they are raised.

        `decode` is the share of each video's frames, 0 to 1, that a check decodes; of the others it reads the header.
        """
        self._keep = keep
        self._decode = decode
        self._found: dict[tuple[str, str], DataError] = {}
        self._notes: dict[str, None] = {}

    @property
    def found(self) -> list[DataError]:
        """The collected errors, in the order in which they were found."""
        return list(self._found.values())

    @property
    def notes(self) -> list[str]:
        """What is no fault and yet worth a word, in the order in which it was found."""
        return list(self._notes)

    def note(self, where: str, text: str) -> None:
        """Keep a note on a file or folder, if faults are kept."""
        if self._keep:
            self._notes[f"{where}: {text}"] = None

    def decodes(self, frame_idx: int) -> bool:
        """Return whether a check decodes this frame: evenly spaced ones, the first one among them."""
        return math.ceil((frame_idx + 1) * self._decode) > math.ceil(frame_idx * self._decode)

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
