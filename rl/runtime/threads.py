"""A call in a thread of its own, and the number of torch's threads in this process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

import torch

T = TypeVar("T")


def in_background(call: Callable[[], T]) -> Future[T]:
    """Start `call` in a daemon thread and return a future of its result or its exception."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # raised again where the result is read
            future.set_exception(error)

    Thread(target=run, name="background", daemon=True).start()
    return future


class SharedCores:
    """The number of torch's threads in this process, lower while `workers` keep one core each busy.

    Threads that wait for each other are slower than fewer threads if some of them also wait for a core: on two cores a
    step of the demo with `grpo.rollout_ahead` took longer than one without (LOG.md). Not for a process with an engine
    of its own, in which vLLM disables `torch.set_num_threads`.
    """

    def __init__(self, workers: int):
        self._threads = torch.get_num_threads()
        self._left = max(1, self._threads - workers)

    def set_threads(self, workers_busy: bool) -> None:
        """Set the threads of the calling thread: all cores, or those that busy workers leave."""
        torch.set_num_threads(self._left if workers_busy else self._threads)
