"""Threads that read frames, and that can be left behind: a network drive or a pipe may never answer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class FrameReaders(Generic[T]):
    """A fixed number of threads that work through a queue of calls.

    They are daemons, unlike those of `ThreadPoolExecutor`, which the interpreter joins at its exit.
    """

    def __init__(self, count: int):
        self._queue: SimpleQueue[tuple[Future[T], Callable[[], T]]] = SimpleQueue()
        self._abandoned: set[Future[T]] = set()  # under way in a thread that nobody waits for any more
        for _ in range(count):
            self._start()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Queue a call; return a future of its result or its exception."""
        future: Future[T] = Future()
        self._queue.put((future, call))
        return future

    def abandon(self, future: Future[T]) -> None:
        """Cancel a call, or leave it behind in its thread and start another thread in its place."""
        if not future.cancel() and not future.done():
            self._abandoned.add(future)
            self._start()

    def _start(self) -> None:
        Thread(target=self._work, name="frames", daemon=True).start()

    def _work(self) -> None:
        while True:
            future, call = self._queue.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # raised again where the result is read
                future.set_exception(error)
            if future in self._abandoned:
                self._abandoned.discard(future)
                return
            del future, call  # not to be kept alive while the queue is empty
