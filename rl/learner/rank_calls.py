"""Calls to the other ranks of a learner, with time limits and errors that name the rank.

A rank may fail while the others wait for it in a collective operation of torch, and then rank 0 would wait too. All
waiting is therefore done here, where Ray's answers and time limits are watched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray
import torch
from ray.exceptions import RayActorError, RayError, RayTaskError

from configs.load import ConfigError
from env.errors import VideoSegError
from rl.learner.collectives import SECONDS
from rl.runtime.threads import in_background

T = TypeVar("T")
GRACE = 10.0  # seconds to wait for ranks to end, and for Ray to report those that died
PATIENCE = 10  # another rank may take this many times as long for its part of a step as rank 0 took for its own


class RankError(VideoSegError):
    """The loss of a learner rank, and with it of the current step's update."""


class RankCalls:
    """Waits for the other ranks' calls. A list of calls has one for each rank, in order, from rank 1 on."""

    def __init__(self) -> None:
        self.remedy = "start again"  # what the user can do after a RankError
        self.waited = 0.0  # seconds that rank 0 has spent waiting for the others

    def beside(self, calls: Sequence[Any], act: Callable[[], T]) -> tuple[T, list[Any]]:
        """Run rank 0's part of the work while the others do theirs.

        Args:
            calls: The other ranks' calls, under way.
            act: Rank 0's part, run in this thread.

        Returns:
            The result of `act`, and the other ranks' results in order.
        """
        started = time.monotonic()
        result = act()
        done = time.monotonic()
        answers = self.collect(calls, max(SECONDS, PATIENCE * (done - started)))
        self.waited += time.monotonic() - done
        return result, answers

    def together(self, calls: Sequence[Any], act: Callable[[], T]) -> T:
        """Run a collective operation on all ranks; return the result of rank 0.

        Rank 0's part runs in a background thread, because it would wait for a rank that has failed.
        """
        future = in_background(act)
        pending = list(calls)
        while pending and not future.done():
            ready, pending = ray.wait(pending, num_returns=1, timeout=1.0)
            for call in ready:
                self._answer(calls, call)
        try:
            result = future.result()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # torch raises no class of its own when a process group breaks
            self._raise_dead(calls)
            raise RankError(f"the learner's ranks did not come together; {self.remedy}: {error}") from error
        self.collect(calls)
        return result

    def collect(self, calls: Sequence[Any], seconds: float = SECONDS) -> list[Any]:
        """Return the results of calls, in order of ranks. RankError if one fails or takes longer than `seconds`."""
        answers: dict[Any, Any] = {}
        pending, deadline = list(calls), time.monotonic() + seconds
        while pending:
            ready, pending = ray.wait(pending, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                late = ", ".join(str(1 + calls.index(call)) for call in pending)
                raise RankError(f"rank {late} of the learner has not answered for {seconds:.0f} s; {self.remedy}")
            answers[ready[0]] = self._answer(calls, ready[0])
        return [answers[call] for call in calls]

    def _answer(self, calls: Sequence[Any], call: Any) -> Any:
        """Return the result of a call that is done. Errors that the user can mend are raised as they are."""
        try:
            return ray.get(call)
        except RayError as error:
            if isinstance(error, RayTaskError) and isinstance(error.cause, VideoSegError | ConfigError):
                raise error.cause from None
            self._raise_dead(calls)  # this failure may be the consequence of another rank's death
            raise RankError(f"rank {1 + calls.index(call)} of the learner failed; {self.remedy}: {error}") from error

    def _raise_dead(self, calls: Sequence[Any]) -> None:
        """Raise RankError if a rank has died. Ray may learn of a death later than the other ranks do."""
        done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=GRACE)
        for call in done:
            try:
                ray.get(call)
            except RayActorError as error:
                raise RankError(f"rank {1 + calls.index(call)} of the learner died; {self.remedy}: {error}") from error
            except RayError:
                continue
