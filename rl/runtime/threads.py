"""One call in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

import torch

T = TypeVar("T")


def in_background(call: Callable[[], T]) -> Future[T]:
    """Begin `call`; its result, or what it raises, comes by the future. The thread does not outlive the process."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # raised again by whoever asks for the result
            future.set_exception(error)

    Thread(target=run, name="background", daemon=True).start()
    return future


class SharedCores:
    """Lets torch's threads in this process make room for `workers`, each of which keeps one core busy.

    Threads that wait for one another, of which some have to wait for a core, are slower than fewer threads: on two
    cores a step of the demo with `grpo.rollout_ahead` took longer than one without (LOG.md). Not for a process that has
    an engine of its own: there vLLM switches `torch.set_num_threads` off.
    """

    def __init__(self, workers: int):
        self._threads = torch.get_num_threads()
        self._left = max(1, self._threads - workers)

    def make_room(self, playing: bool) -> None:
        """Take what is left while the workers are `playing`, else everything. For the thread that calls."""
        torch.set_num_threads(self._left if playing else self._threads)
