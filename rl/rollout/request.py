"""Rollout requests and the counts of their generation. Imports no torch, so that schedulers and workers start fast."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from env.types import Task
from policy.engines.base import Completion


@dataclass(frozen=True)
class RolloutRequest:
    """One episode to run. Its seeds follow from its names, so a retry or a resumed run samples the same tokens."""

    task: Task
    step: int
    sibling: int
    seed: int  # of the run
    temperature: float

    @property
    def trajectory_id(self) -> str:
        """The unique name of the episode in its run."""
        return f"{self.step}/{self.task.task_id}/{self.sibling}"

    def turn_seed(self, turn: int) -> int:
        """Return the 31-bit sampling seed of one turn."""
        return zlib.crc32(f"{self.seed}/{self.trajectory_id}/{turn}".encode()) & 0x7FFFFFFF


@dataclass
class RolloutStats:
    """Sums over the turns that an engine has written."""

    turns: int = 0
    prompt_tokens: int = 0  # of all turns' prompts, images expanded
    cached_tokens: int = 0  # those of the prompts that came from the prefix cache
    written_tokens: int = 0

    def add(self, completion: Completion) -> None:
        """Count one turn."""
        self.turns += 1
        self.prompt_tokens += completion.prompt_tokens
        self.cached_tokens += completion.cached_tokens
        self.written_tokens += len(completion.token_ids)
