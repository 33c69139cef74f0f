"""Which frames an observation shows, by `env.frame_rounding`. Observations, traces and mask rewards all ask here."""

from __future__ import annotations

import numpy as np

from configs.schema import EnvConfig
from env.frames import sample_indices
from env.types import Interval


def strip_frames(num_frames: int, config: EnvConfig) -> tuple[int, ...]:
    """Return the source frames of the strip of a video with so many frames."""
    return whole_video(num_frames, config.strip_frames, config.frame_rounding)


def detail_frames(num_frames: int, config: EnvConfig) -> tuple[int, ...]:
    """Return the source frames that the first observation of a video with so many frames shows large."""
    return whole_video(num_frames, config.detail_frames, config.frame_rounding)


def zoom_frames(interval: Interval, config: EnvConfig) -> tuple[int, ...]:
    """Return the source frames that the tool `zoom` shows of an interval."""
    if config.frame_rounding == "nearest" or config.zoom_frames >= len(interval):
        return sample_indices(interval, config.zoom_frames)
    return _rounded_down(interval, config.zoom_frames)


def whole_video(num_frames: int, count: int, rounding: str) -> tuple[int, ...]:
    """Return evenly spaced frames of a whole video, first and last included.

    Args:
        num_frames: Length of the video, at least 1.
        count: Number of frames.
        rounding: `nearest`; or `down`, which shows all of a video of up to count + 1 frames, as VideoSEG-O3 does
            (dataset.py:668-678).

    Returns:
        Source indices in order; none where `count` is 0.
    """
    whole = Interval(0, num_frames)
    if rounding == "nearest" or count < 1:
        return sample_indices(whole, count)
    return tuple(range(num_frames)) if num_frames <= count + 1 else _rounded_down(whole, count)


def _rounded_down(interval: Interval, count: int) -> tuple[int, ...]:
    """Return the frames of numpy's linspace, whose steps fall below some exact divisions; one frame is the first."""
    return tuple(int(at) for at in np.linspace(interval.start, interval.end - 1, count, dtype=int))
