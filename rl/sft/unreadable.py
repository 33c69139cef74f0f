"""Samples of a cold-start stage that cannot be read: each is left out, told and counted, and the stage goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from configs.plain_text import plain
from env.errors import DataError, VideoSegError
from rl.sft.context import StageContext

logger = logging.getLogger(__name__)
T = TypeVar("T")


class TooManyUnreadableError(VideoSegError):
    """More samples of a stage cannot be read than `cold_start.max_failed_share` allows."""


class UnreadableSamples:
    """Counts the samples of one stage that are left out."""

    def __init__(self, context: StageContext, num_samples: int):
        """Start at zero.

        Args:
            context: Of the stage.
            num_samples: How many samples the whole stage takes.
        """
        self.count = 0
        self._share = context.config.cold_start.max_failed_share
        self._num_samples = num_samples
        self._kind = context.stage.kind
        self._told: set[str] = set()

    def read(self, make: Callable[[], T]) -> T | None:
        """Return what `make` returns, or None where data cannot be read. TooManyUnreadableError if it is too often."""
        try:
            return make()
        except DataError as error:
            self.leave_out(error)
            return None

    def leave_out(self, error: DataError) -> None:
        """Count a sample that is left out. TooManyUnreadableError if there are too many."""
        self.count += 1
        told = plain(str(error), 1000)
        if told not in self._told:
            self._told.add(told)
            logger.warning("cold start, stage %s: a sample is left out: %s", self._kind, told)
        if self.count > self._share * self._num_samples:
            raise TooManyUnreadableError(
                f"cold start, stage {self._kind}: {self.count} of {self._num_samples} samples cannot be read, a larger "
                f"share than cold_start.max_failed_share ({self._share:g}); the last: {told}; mend the data and go on "
                "with --resume"
            ) from error
