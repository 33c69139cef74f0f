"""Settings, videos and tasks made by hand, for the tests of traces."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from configs.schema import EnvConfig
from env.rle import encode
from env.types import RLE, Task, VideoRef

TINY = EnvConfig(
    prompt="brief",
    strip_frames=8,
    detail_frames=2,
    size_factor=16,
    strip_pixels=1024,
    detail_pixels=4096,
    zoom_pixels=4096,
    key_pixels=4096,
)
SIDE, FRAMES = 100, 41  # of the videos below: with 5 strip frames, every tenth is shown

Box = tuple[int, int, int, int]  # left, top, width, height in pixels; of a frame of 100 x 100 also in percent


def boxes(where: Mapping[int, Box], frames: int = FRAMES) -> tuple[RLE | None, ...]:
    """Return the masks of an object that is a box in some frames and absent in the others."""
    masks: list[RLE | None] = [None] * frames
    for t, (left, top, width, height) in where.items():
        mask_HW = np.zeros((SIDE, SIDE), bool)
        mask_HW[top : top + height, left : left + width] = True
        masks[t] = encode(mask_HW)
    return tuple(masks)


def hand_task(expression: str, gold: tuple[RLE | None, ...], number: int = 0, **labels: object) -> Task:
    """Build a task of the video "v", whose frame files do not exist.

    Args:
        expression: the sentence.
        gold: one mask per frame, None where the target is absent.
        number: the last part of the task's id.
        labels: further fields of the task.
    """
    frames = tuple(f"{t:05d}" for t in range(len(gold)))
    video = VideoRef("nowhere", "JPEGImages/v", frames, len(gold), SIDE, SIDE)
    return Task(f"set/v/{number}", video, expression, gold, **labels)  # pyright: ignore[reportArgumentType]


# A white dog walks from the left to the right in frames 8 to 32 and leaves; a woman stands in the upper right corner.
DOG = boxes({t: (2 * t - 12, 60, 10, 10) for t in range(8, 33)})
WOMAN = boxes(dict.fromkeys(range(FRAMES), (80, 10, 10, 20)))
HAND = EnvConfig(strip_frames=5, detail_frames=0, zoom_frames=5)


def dog_and_woman() -> list[Task]:
    return [hand_task("a white dog walking right", DOG), hand_task("the woman in a red coat", WOMAN, 1)]
