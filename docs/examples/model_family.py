"""A model family: it marks every pixel of the colour that the sentence names. It has no turns and needs no training."""

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

CHANNELS = {"red": 0, "green": 1, "blue": 2}


@dataclass(frozen=True)
class ColourPolicy:
    """The "weights": by how much the named colour has to exceed the two others, 0 to 255."""

    margin: int

    def mask(self, pixels_HWC: np.ndarray, sentence: str) -> np.ndarray:
        """Return a bool mask [H, W] of a frame, uint8 [H, W, 3]; it is empty if the sentence names no colour."""
        named = [channel for name, channel in CHANNELS.items() if name in sentence.split()]
        if not named:
            return np.zeros(pixels_HWC.shape[:2], bool)
        others_HWC = np.delete(pixels_HWC, named[0], axis=2).astype(int)
        return pixels_HWC[:, :, named[0]] - others_HWC.max(axis=2) > self.margin


class ColourSegmenter:
    """Satisfies `policy.segmenter.Segmenter`."""

    def __init__(self, policy: ColourPolicy, frames: FrameCaches):
        self.policy = policy
        self.frames = frames

    def segment(self, tasks: Sequence[Task], temperature: float, seed: int) -> Iterator[Trajectory]:
        """Yield one trajectory per task. A family with turns would run episodes here."""
        yield from segment_each(tasks, self._masks)

    def _masks(self, task: Task) -> dict[int, RLE]:
        return {
            i: encode(self.policy.mask(self._frame(task, i), task.expression)) for i in range(task.video.num_frames)
        }

    def _frame(self, task: Task, frame_idx: int) -> np.ndarray:
        """Return what the policy is shown of a frame: grey in the blind evaluation, unlike `frames.sam.full`."""
        shown = FrameRef(frame_idx, task.video.width, task.video.height, "strip")
        return self.frames.policy.pixels(task.video, shown)

    def close(self) -> None:
        """Free nothing; a model on a GPU would be freed here."""


def load(folder: Path, config: PolicyConfig | None = None) -> ColourPolicy:
    """Read a checkpoint folder."""
    return ColourPolicy(json.loads((folder / "policy.json").read_text())["margin"])


def save(policy: ColourPolicy, folder: Path) -> None:
    """Write a checkpoint folder. Its `policy.json` names the family, so `--checkpoint` is enough for every command."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "policy.json").write_text(json.dumps({"family": "colour", "margin": policy.margin}))


def segmenter(config: RunConfig, checkpoint: Path, frames: FrameCaches) -> Segmenter:
    """Build what evaluation and prediction ask for masks. Heavy imports belong into this function."""
    return ColourSegmenter(load(checkpoint), frames)


def identity(config: RunConfig, checkpoint: Path) -> dict[str, Any]:
    """Return the settings that the masks depend on, besides the checkpoint's files: none."""
    return {}


COLOUR = Family(load, save, segmenter, identity)
