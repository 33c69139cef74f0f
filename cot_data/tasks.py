"""Define a data set as a lazy sequence of tasks.

Opening a data set reads only its metadata. Frames are located and gold masks read when an element is accessed. So a
sequence of 35,000 tasks opens in seconds, and a worker that receives it reads only the tasks that it runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, overload

from cot_data.faults import RAISE, Faults
from env.errors import DataError
from env.outside_names import check_name
from env.rle import check
from env.types import RLE, Task, VideoRef


@dataclass(frozen=True)
class Outline:
    """The metadata of a task, known without frames and masks; the fields are those of `Task`."""

    task_id: str
    expression: str
    num_frames: int = 0  # 0 if the metadata does not have it
    family: str = "any"
    explore: str = ""
    evidence: tuple[int, ...] = ()
    caption: str = ""
    subset: str = ""


class Footage(Protocol):
    """The frames of one video on disk."""

    def ref(self, faults: Faults = RAISE) -> VideoRef:
        """Locate the frames and open at most one. DataError if some are missing."""
        ...

    def check(self, faults: Faults) -> VideoRef | None:
        """Collect a fault for every frame that cannot be opened or has another size; return the video if any."""
        ...


class Gold(Protocol):
    """The masks of one target on disk."""

    def masks(self, video: VideoRef, where: str, faults: Faults = RAISE) -> tuple[RLE | None, ...]:
        """Read the masks.

        Args:
            video: the video of the target, with T frames.
            where: the expression's record, named in errors.
            faults: raises the first fault, or collects them and continues.

        Returns:
            [T] RLEs, None where the target is absent.

        Raises:
            DataError: a mask is missing, cannot be decoded or has another size than the frames.
        """
        ...

    def check(self, video: VideoRef, where: str, faults: Faults) -> None:
        """Collect a fault for every mask that is missing, cannot be decoded or has another size.

        Args:
            video: the video of the target.
            where: the expression's record, named in errors.
            faults: collects the faults.
        """
        ...


@dataclass(frozen=True)
class Entry:
    """One expression of a data set; `gold` is None where the masks are unknown."""

    outline: Outline
    footage: Footage
    gold: Gold | None
    where: str  # file and record

    def task(self) -> Task:
        """Return the task with its video and gold masks. DataError if these are damaged or do not fit the metadata."""
        video = self.footage.ref()
        for frame in video.frames:
            check_name(frame, f"{self.where}, frame {frame[:80]!r}")
        known = self.outline
        gold = self.gold.masks(video, self.where) if self.gold else ()
        for t, rle in enumerate(gold):
            if rle is not None:
                check(rle, f"{self.where}, mask of frame {t}")
        return Task(
            task_id=known.task_id,
            video=video,
            expression=known.expression,
            gold=gold,
            family=known.family,
            explore=known.explore,
            evidence=known.evidence,
            caption=known.caption,
            subset=known.subset,
        )


class Tasks(Sequence[Task]):
    """The tasks of a data set in file order. Each access to an element reads its files; a slice reads nothing."""

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
        """The metadata of all tasks, without reading frames or masks."""
        return [entry.outline for entry in self.entries]


@dataclass(frozen=True)
class UnreadableTask:
    """A task whose frames or masks cannot be read."""

    task_id: str
    reason: str


def read_each(tasks: Sequence[Task]) -> Iterator[Task | UnreadableTask]:
    """Yield every task in order; one that cannot be read comes as an `UnreadableTask`, and the others still come."""
    for at in range(len(tasks)):
        try:
            yield tasks[at]
        except DataError as error:
            assert isinstance(tasks, Tasks), "only a task that is read on access can fail"
            yield UnreadableTask(tasks.entries[at].outline.task_id, str(error))


def readable(tasks: Sequence[Task]) -> tuple[list[Task], list[UnreadableTask]]:
    """Read all tasks; return those that can be read and those that cannot, each in order."""
    read = list(read_each(tasks))
    good = [task for task in read if isinstance(task, Task)]
    return good, [task for task in read if isinstance(task, UnreadableTask)]
