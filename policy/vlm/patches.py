"""Turn frames into the vision patches of Qwen3-VL, as its image processor does for frames of the right size.

The environment resizes frames once, to multiples of patch x merge; here nothing is resized. A test compares the result
with the Hugging Face processor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PatchLayout:
    """Patch sizes of the vision tower, and the normalisation of its input."""

    patch: int  # side in pixels
    merge: int  # patches per side of a token
    temporal: int  # frames per patch
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @classmethod
    def of(cls, config: Any) -> PatchLayout:
        """Return the layout of a `Qwen3VLConfig`."""
        vision = config.vision_config
        return cls(vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)

    def grid(self, height: int, width: int) -> tuple[int, int, int]:
        """Return (1, rows, columns) of a frame in patches. Raises ValueError for sides that are not multiples."""
        unit = self.patch * self.merge
        if height % unit or width % unit:
            raise ValueError(f"frame of {width}x{height} pixels: sides must be multiples of {unit} (env.size_factor)")
        return 1, height // self.patch, width // self.patch

    def num_tokens(self, height: int, width: int) -> int:
        """Return the number of image tokens of a frame, after merging."""
        _, rows, columns = self.grid(height, width)
        return rows * columns // self.merge**2

    def patchify(self, frame: np.ndarray) -> np.ndarray:
        """Turn uint8 [H, W, 3] into float32 [rows x columns, 3 x temporal x patch x patch], merged patches adjacent."""
        height, width, _ = frame.shape
        _, rows, columns = self.grid(height, width)
        pixels = (frame.astype(np.float32) / 255 - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        patch, merge = self.patch, self.merge
        tiles = pixels.reshape(rows // merge, merge, patch, columns // merge, merge, patch, 3)
        tiles = tiles.transpose(0, 3, 1, 4, 6, 2, 5)  # row, column, row in merge, column in merge, colour, y, x
        tiles = np.repeat(tiles[:, :, :, :, :, None], self.temporal, axis=5)  # a still image fills the time axis
        return tiles.reshape(rows * columns, -1)
