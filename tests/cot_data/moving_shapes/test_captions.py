"""Captions of single frames, and real clips as a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.schema import EnvConfig
from cot_data.clips import clips_folder, convert_clips
from cot_data.datasets.mevis import load_mevis
from cot_data.moving_shapes.captions import caption_trajectories, describe
from cot_data.moving_shapes.generate import write_moving_shapes
from cot_data.moving_shapes.labels import load_objects
from cot_data.traces.dialogue import to_trajectory
from cot_data.traces.write import write_trace
from env.errors import DataError
from env.frames import sample_indices
from env.rle import decode
from env.types import Interval

TINY = EnvConfig(prompt="brief", size_factor=16, strip_pixels=1024, detail_pixels=4096)


def test_captions_name_what_each_frame_shows(tmp_path: Path) -> None:
    write_moving_shapes(tmp_path, 25, seed=8)
    videos = load_objects(tmp_path)
    trajectories = caption_trajectories(videos, TINY, np.random.default_rng(0), 12, num_frames=6)
    assert len({trajectory.trajectory_id for trajectory in trajectories}) == 12
    by_path = {labelled.video.path: labelled for labelled in videos}
    for trajectory in trajectories:
        labelled = by_path[trajectory.task.video.path]
        frames = [frame for turn in trajectory.turns for frame in turn.observation.frames]
        indices = [frame.frame_idx for frame in frames]
        assert len(indices) == 6 and {(frame.role, frame.width) for frame in frames} <= {("strip", 32), ("detail", 64)}
        for t, frame, turn in zip(indices, frames, trajectory.turns, strict=True):
            assert turn.action.text == describe(labelled.objects, t, is_large=frame.role == "detail")
            for each in labelled.objects:
                rle = each.masks[t]
                assert (each.caption in turn.action.text) == (rle is not None and decode(rle).sum() >= 24)
            assert "checkered" not in describe(labelled.objects, t)
    texts = " ".join(turn.action.text for trajectory in trajectories for turn in trajectory.turns)
    assert "flash" in texts and "checkered" in texts


def test_real_clips_convert_load_and_get_traces(tmp_path: Path) -> None:
    source = clips_folder()
    if not source.is_dir():
        pytest.skip(f"no clips at {source}; name their folder in VIDEOSEG_CLIPS")
    convert_clips(source, tmp_path / "clips")
    tasks = {task.task_id: task for task in load_mevis(tmp_path / "clips")}
    assert len(tasks) == 8
    dog = tasks["clips/dogs-jump/0"]
    assert dog.expression == "a white dog with black patches"
    assert (dog.video.num_frames, dog.video.width, dog.video.height) == (66, 432, 240)
    assert all(dog.gold) and dog.caption == "" and dog.explore == ""
    ids_HW = np.array(Image.open(source / "dogs-jump" / "masks" / "00010.png"))
    assert dog.gold[10] is not None
    np.testing.assert_array_equal(decode(dog.gold[10]), ids_HW == 1)
    copied = tmp_path / "clips" / "JPEGImages" / "dogs-jump" / "00010.jpg"
    assert copied.read_bytes() == (source / "dogs-jump" / "frames" / "00010.jpg").read_bytes()
    config = EnvConfig()
    for task in tasks.values():
        trajectory = to_trajectory(write_trace(task, config, np.random.default_rng(0)), task, config)
        first = sample_indices(Interval(0, task.video.num_frames), 10)
        assert {frame.frame_idx for frame in trajectory.turns[0].observation.frames} >= set(first)


def test_errors_name_broken_clips(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="VIDEOSEG_CLIPS"):
        convert_clips(tmp_path, tmp_path / "out")
    clip = tmp_path / "c"
    (clip / "frames").mkdir(parents=True)
    (clip / "frames" / "00000.jpg").write_bytes(b"x")
    (clip / "meta.json").write_text('{"object_ids": [1], "expressions": []}')
    with pytest.raises(DataError, match=r"00000\.png: expected the masks"):
        convert_clips(tmp_path, tmp_path / "out")
