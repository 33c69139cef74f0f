"""A data set as a lazy sequence of tasks: what opening it reads, and what is read when a task is asked for.

Opening reads the metadata only. Frames are looked for, and gold masks read, when an element is taken, so a sequence of
35,000 tasks opens in seconds, and a worker that it is sent to reads only what it plays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, overload

from cot_data.faults import RAISE, Faults
from env.types import RLE, Task, VideoRef


@dataclass(frozen=True)
class Outline:
    """What is known of a task without looking at frames or masks; the fields are those of `Task`."""

    task_id: str
    expression: str
    num_frames: int = 0  # 0 where only the disk tells
    family: str = "any"
    explore: str = ""
    evidence: tuple[int, ...] = ()
    caption: str = ""
    subset: str = ""


class Footage(Protocol):
    """The frames of one video on disk."""

    def ref(self, faults: Faults = RAISE) -> VideoRef:
        """Look for the frames; no more than one is opened. DataError where some are missing."""
        ...

    def check(self, faults: Faults) -> VideoRef | None:
        """Note every frame that cannot be opened or is of another size; the video, None where there is none."""
        ...


class Gold(Protocol):
    """The masks of one target on disk."""

    def masks(self, video: VideoRef, where: str, faults: Faults = RAISE) -> tuple[RLE | None, ...]:
        """[T], None where the target is absent; `where` names the expression in errors. DataError."""
        ...

    def check(self, video: VideoRef, where: str, faults: Faults) -> None:
        """Note every mask that is missing, cannot be decoded or is of another size."""
        ...


@dataclass(frozen=True)
class Entry:
    """One expression of a data set; `gold` is None where the masks are not known."""

    outline: Outline
    footage: Footage
    gold: Gold | None
    where: str  # file and record

    def task(self) -> Task:
        """The task with its video and gold masks; DataError where the disk does not hold what the metadata says."""
        video = self.footage.ref()
        known = self.outline
        return Task(
            task_id=known.task_id,
            video=video,
            expression=known.expression,
            gold=self.gold.masks(video, self.where) if self.gold else (),
            family=known.family,
            explore=known.explore,
            evidence=known.evidence,
            caption=known.caption,
            subset=known.subset,
        )


class Tasks(Sequence[Task]):
    """The tasks of a data set in file order. An element is read anew each time it is taken; a slice reads nothing."""

    def __init__(self, entries: Sequence[Entry]):
        self.entries = entries

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, at: int) -> Task: ...
    @overload
    def __getitem__(self, at: slice) -> Tasks: ...
    def __getitem__(self, at: int | slice) -> Task | Tasks:
        return Tasks(self.entries[at]) if isinstance(at, slice) else self.entries[at].task()

    def __iter__(self) -> Iterator[Task]:
        return (entry.task() for entry in self.entries)

    @property
    def outlines(self) -> list[Outline]:
        return [entry.outline for entry in self.entries]
