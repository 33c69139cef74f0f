"""Parts of learner tests for Ray to start: assignments of advantages that fail in all processes but one; an actor."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

from env.errors import DataError
from env.types import Trajectory


def raises_data_error(group: Sequence[Trajectory], driver: int) -> None:
    """Assign advantages; raise DataError in every process but `driver`."""
    if _assign(group, driver):
        return
    raise DataError("data/train, video 3", "cannot be read")


def raises(group: Sequence[Trajectory], driver: int) -> None:
    """Assign advantages; raise an error of Python in every process but `driver`."""
    if _assign(group, driver):
        return
    raise ArithmeticError("no such advantage")


def sleeps(group: Sequence[Trajectory], driver: int) -> None:
    """Assign advantages; wait eight seconds in every process but `driver`."""
    if _assign(group, driver):
        return
    time.sleep(8)


def dies(group: Sequence[Trajectory], driver: int) -> None:
    """Assign advantages; kill every process but `driver`."""
    if _assign(group, driver):
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _assign(group: Sequence[Trajectory], driver: int) -> bool:
    """Assign advantages; return whether this process is `driver`."""
    for trajectory in group:
        trajectory.advantage = 1.0
    return os.getpid() == driver


class GpuHolder:
    """An actor like ranks and workers."""

    def sees(self) -> str:
        """Return the GPUs that this process may use."""
        return os.environ["CUDA_VISIBLE_DEVICES"]
