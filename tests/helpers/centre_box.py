"""A second, trivial model family: whatever the sentence says, the answer is a box in the centre of every frame.

On a frame of one colour, as a blind model is shown, it finds nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import PolicyConfig, RunConfig
from env.frames import FrameCaches
from env.rle import encode
from env.types import RLE, FrameRef, Task, Trajectory
from policy.segmenter import Segmenter, segment_each
from rl.families import Family


@dataclass
class CentreBox:
    """The "weights": which share of each side of the frame the box covers."""

    share: float


class CentreBoxSegmenter:
    def __init__(self, box: CentreBox, frames: FrameCaches):
        self.box = box
        self.frames = frames

    def segment(self, tasks: Sequence[Task], temperature: float, seed: int) -> Iterator[Trajectory]:
        yield from segment_each(tasks, self._masks)

    def _masks(self, task: Task) -> dict[int, RLE]:
        video = task.video
        shown = [FrameRef(at, video.width, video.height, "strip") for at in range(video.num_frames)]
        return {ref.frame_idx: self._box(self.frames.policy.pixels(video, ref)) for ref in shown}

    def _box(self, pixels_HWC: np.ndarray) -> RLE:
        height, width = pixels_HWC.shape[:2]
        mask_HW = np.zeros((height, width), bool)
        top, left = (round(side * (1 - self.box.share) / 2) for side in (height, width))
        mask_HW[top : height - top, left : width - left] = (pixels_HWC != pixels_HWC[0, 0]).any()
        return encode(mask_HW)

    def close(self) -> None:
        pass


def load(folder: Path, config: PolicyConfig | None = None) -> CentreBox:
    return CentreBox(json.loads((folder / "policy.json").read_text())["share"])


def save(box: CentreBox, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "policy.json").write_text(json.dumps({"family": "centre_box", "share": box.share}))


def segmenter(config: RunConfig, checkpoint: Path, frames: FrameCaches) -> Segmenter:
    return CentreBoxSegmenter(load(checkpoint), frames)


def identity(config: RunConfig, checkpoint: Path) -> dict[str, Any]:
    return {}


CENTRE_BOX = Family(load, save, segmenter, identity)
