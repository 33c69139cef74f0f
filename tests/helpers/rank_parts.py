"""What Ray starts in tests of the learner: judges that go wrong in every process but one, and who tells its GPU."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

from env.errors import DataError
from env.types import Trajectory


def finds_fault(group: Sequence[Trajectory], driver: int) -> None:
    if _goes_well(group, driver):
        return
    raise DataError("data/train, video 3", "cannot be read")


def breaks(group: Sequence[Trajectory], driver: int) -> None:
    if _goes_well(group, driver):
        return
    raise ArithmeticError("no such advantage")


def sleeps(group: Sequence[Trajectory], driver: int) -> None:
    if _goes_well(group, driver):
        return
    time.sleep(8)


def dies(group: Sequence[Trajectory], driver: int) -> None:
    if _goes_well(group, driver):
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _goes_well(group: Sequence[Trajectory], driver: int) -> bool:
    for trajectory in group:
        trajectory.advantage = 1.0
    return os.getpid() == driver


class GpuHolder:
    """An actor, which is what ranks and workers are."""

    def sees(self) -> str:
        return os.environ["CUDA_VISIBLE_DEVICES"]
