"""What is asked of a rollout, and what it counts. No torch, so that schedulers and their workers can name it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from env.types import Task
from policy.engines.base import Completion


@dataclass(frozen=True)
class RolloutRequest:
    """One episode to be played. Its seed follows from its names: a retry or a resumed run samples the same tokens."""

    task: Task
    step: int
    sibling: int
    seed: int  # of the run
    temperature: float

    @property
    def trajectory_id(self) -> str:
        return f"{self.step}/{self.task.task_id}/{self.sibling}"

    def turn_seed(self, turn: int) -> int:
        """31-bit seed of one turn's sampling."""
        return zlib.crc32(f"{self.seed}/{self.trajectory_id}/{turn}".encode()) & 0x7FFFFFFF


@dataclass
class RolloutStats:
    """Sums since the last look."""

    turns: int = 0
    prompt_tokens: int = 0  # expanded, of all turns
    cached_tokens: int = 0  # of these, taken from the prefix cache
    written_tokens: int = 0

    def add(self, completion: Completion) -> None:
        self.turns += 1
        self.prompt_tokens += completion.prompt_tokens
        self.cached_tokens += completion.cached_tokens
        self.written_tokens += len(completion.token_ids)
