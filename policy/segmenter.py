"""The protocol that evaluation, prediction and benchmarks ask of every model family. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from env.errors import VideoSegError
from env.frames import FrameCaches
from env.types import RLE, StopReason, Task, Trajectory


class Segmenter(Protocol):
    """A loaded model that finds what a sentence refers to in a video."""

    frames: FrameCaches
    """Where pixels are read; the caller may exchange it between two calls of `segment`. What the language model sees
    comes from `frames.policy.pixels`, which is grey in a blind evaluation, and what SAM 2 sees from `frames.sam.full`.
    """

    def segment(self, tasks: Sequence[Task], temperature: float, seed: int) -> Iterator[Trajectory]:
        """Yield one trajectory per task, in task order, with its predicted masks.

        Args:
            tasks: What to segment. Gold masks may be unknown and must not be read.
            temperature: Of sampling; 0 is greedy. A family that samples nothing ignores it.
            seed: Of sampling. The same tasks, temperature and seed give the same trajectories.

        Yields:
            Trajectories with the id `-1/<task_id>/0`, step -1 and sibling 0. `masks` holds every frame [H, W] of the
            video, or nothing where the model gave no prediction. A family without turns ends them as
            `StopReason.SINGLE_PASS`. Data that cannot be read ends only its own trajectory, as `StopReason.ERROR`.
        """
        ...

    def close(self) -> None:
        """Free the model; it cannot be used afterwards."""
        ...


def segment_each(tasks: Sequence[Task], masks_of: Callable[[Task], Mapping[int, RLE]]) -> Iterator[Trajectory]:
    """Segment tasks one after another, each in a single pass: what `Segmenter.segment` is in most families.

    Args:
        tasks: What to segment.
        masks_of: Returns the predicted mask of every source frame of a task. A VideoSegError that it raises ends the
            task's trajectory as an error.

    Yields:
        One trajectory per task, in order.
    """
    for task in tasks:
        trajectory = Trajectory(f"-1/{task.task_id}/0", task, step=-1, sibling=0)
        try:
            trajectory.masks = dict(masks_of(task))
            trajectory.stop_reason = StopReason.SINGLE_PASS
        except VideoSegError as error:
            trajectory.error = str(error)
        yield trajectory
