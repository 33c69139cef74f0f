"""Processor cores that the learner and the rollout workers beside it share, on a machine without a GPU."""

from __future__ import annotations

import torch


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
