"""Frames that are shown: rounded to the nearest, or down as numpy's linspace does in the released code."""

from __future__ import annotations

import numpy as np
import pytest

from configs.load import ConfigError, load_config
from configs.schema import EnvConfig
from env.episode import VideoSegEnv
from env.frames import sample_indices
from env.spacing import whole_video, zoom_frames
from env.types import Interval, Task, VideoRef


@pytest.mark.parametrize("count", [1, 2, 5, 10, 20, 23])
def test_down_is_what_numpy_gives_for_longer_videos(count: int):
    for num_frames in range(1, 200):
        found = whole_video(num_frames, count, "down")
        if num_frames <= count + 1:
            assert found == tuple(range(num_frames))
        else:
            assert found == tuple(np.linspace(0, num_frames - 1, count, dtype=int).tolist())
        assert whole_video(num_frames, count, "nearest") == sample_indices(Interval(0, num_frames), count)


def test_numpy_s_own_steps_are_kept():
    """An exact division rounded down would give 15 there."""
    assert whole_video(31, 23, "down")[11] == 14 and 11 * 30 // 22 == 15


def test_zooms_are_rounded_as_the_first_observation():
    config = EnvConfig(zoom_frames=4, frame_rounding="down")
    assert zoom_frames(Interval(10, 20), config) == (10, 13, 16, 19)
    assert zoom_frames(Interval(10, 21), config) == (10, 13, 16, 20)
    assert zoom_frames(Interval(10, 21), EnvConfig(zoom_frames=4)) == (10, 13, 17, 20)
    assert zoom_frames(Interval(10, 14), config) == (10, 11, 12, 13)
    assert zoom_frames(Interval(10, 15), config) == (10, 11, 12, 14), "a zoom shows no frame more than asked for"


def test_an_episode_shows_the_frames_of_the_setting():
    task = Task("s/v/0", VideoRef("r", "v", (), 40, 240, 432), "dog", ())
    for rounding, wanted in (("nearest", [0, 10, 20, 29, 39]), ("down", [0, 9, 19, 29, 39])):
        config = EnvConfig(strip_frames=5, detail_frames=5, frame_rounding=rounding)
        shown = VideoSegEnv(task, config).first_observation().frames
        assert [frame.frame_idx for frame in shown] == wanted * 2


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("env.frame_rounding=floor", "env.frame_rounding: expected one of nearest, down, got 'floor'"),
        ("env.bounds=clip", "env.bounds: expected one of refuse, clamp, got 'clip'"),
        ("eval.malformed=none", "eval.malformed: expected one of empty, decode, got 'none'"),
    ],
)
def test_other_values_are_refused(setting: str, problem: str):
    with pytest.raises(ConfigError, match=problem):
        load_config("tiny", [setting])


def test_none_of_the_frames_is_shown_for_a_count_of_none():
    assert whole_video(9, 0, "down") == whole_video(9, 0, "nearest") == ()
