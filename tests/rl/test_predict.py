"""Predictions into used folders, of several videos, and of videos that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from env.store import TrajectoryStore
from env.types import StopReason
from rl import predict
from rl.families import FAMILIES
from tests.helpers.centre_box import CENTRE_BOX, CentreBox, save
from tests.helpers.media import many_scans, numbered_video, save_each


@pytest.fixture(scope="module", autouse=True)
def known_family():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "centre_box", CENTRE_BOX)
        yield


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("box")
    save(CentreBox(0.5), folder)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, box: Path, out: Path, *videos: Path) -> int:
    """The command as it is typed; return its exit status."""
    words = ["--video", *videos, "--query", "it", "--checkpoint", box, "--out", out]
    monkeypatch.setattr("sys.argv", ["rl.predict", *map(str, words)])
    try:
        predict.main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code)
            return 1
        return end.code or 0
    return 0


def clip(folder: Path, count: int, first: int = 0) -> Path:
    return save_each(folder, [f"{first + at:05d}.jpg" for at in range(count)])


def broken(folder: Path, count: int = 4) -> Path:
    """A clip whose last but one frame is cut off: it can be probed."""
    path = clip(folder, count) / f"{count - 2:05d}.jpg"
    path.write_bytes(path.read_bytes()[:300])
    return folder


def names(out: Path) -> list[str]:
    return sorted(path.stem for path in (out / "masks").iterdir())


# ---- leftovers ----


def test_a_used_folder_keeps_no_mask_of_the_former_prediction(tmp_path: Path, box: Path, monkeypatch):
    out = tmp_path / "out"
    assert run(monkeypatch, box, out, clip(tmp_path / "long", 6)) == 0
    (out / "mine.txt").write_text("kept")
    assert run(monkeypatch, box, out, clip(tmp_path / "short", 3, first=4)) == 0
    assert names(out) == ["00004", "00005", "00006"]
    assert sorted(json.loads((out / "masks.json").read_text())["masks"]) == names(out)
    (trajectory,) = TrajectoryStore(out / "trajectories").read()
    assert trajectory.task.video.path == "short"
    assert (out / "mine.txt").read_text() == "kept"
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock",
        "masks",
        "masks.json",
        "mine.txt",
        "overlay.mp4",
        "trajectories",
    ]


@pytest.mark.parametrize("kind", ["a broken frame", "an empty folder", "no video", "a bomb"])
def test_a_failed_prediction_leaves_no_masks(tmp_path: Path, box: Path, monkeypatch, capsys, kind: str):
    out = tmp_path / "out"
    assert run(monkeypatch, box, out, clip(tmp_path / "long", 6)) == 0
    video = tmp_path / "video"
    if kind == "a broken frame":
        broken(video)
    elif kind == "an empty folder":
        video.mkdir()
    elif kind == "no video":
        video.write_text("no video")
    else:
        many_scans(clip(video, 3) / "00001.jpg", 2000)
    capsys.readouterr()
    assert run(monkeypatch, box, out, video) == 1
    printed = capsys.readouterr().out
    assert "error: " in printed and "video" in printed and "Traceback" not in printed
    assert {path.name for path in out.iterdir()} <= {"trajectories", ".lock"}
    for trajectory in TrajectoryStore(out / "trajectories").read() if (out / "trajectories").exists() else ():
        assert trajectory.stop_reason is StopReason.ERROR and trajectory.masks == {}


def test_masks_that_no_prediction_wrote_stay(tmp_path: Path, box: Path, monkeypatch, capsys):
    out = tmp_path / "out"
    (out / "masks").mkdir(parents=True)
    Image.new("L", (4, 4)).save(out / "masks" / "gold.png")
    assert run(monkeypatch, box, out, clip(tmp_path / "clip", 2)) == 1
    assert "expected masks of a former prediction or none, found others" in capsys.readouterr().out
    assert names(out) == ["gold"]


def test_a_prediction_that_was_killed_while_it_wrote_is_replaced(tmp_path: Path, box: Path, monkeypatch):
    out = tmp_path / "out"
    assert run(monkeypatch, box, out, clip(tmp_path / "long", 6)) == 0
    (out / "masks").rename(out / ".masks.partial")  # as it is while masks are written
    (out / "trajectories" / "segment-000000.jsonl").unlink(missing_ok=True)
    assert run(monkeypatch, box, out, clip(tmp_path / "short", 2)) == 0
    assert names(out) == ["00000", "00001"] and not (out / ".masks.partial").exists()


# ---- several videos ----


def test_a_video_that_cannot_be_read_does_not_affect_the_others(tmp_path: Path, box: Path, monkeypatch, capsys):
    good = [clip(tmp_path / "one", 3), numbered_video(tmp_path / "two.mp4", 5)]
    bad = [tmp_path / "nowhere", broken(tmp_path / "broken")]
    assert run(monkeypatch, box, tmp_path / "out", good[0], *bad, good[1]) == 1
    printed = capsys.readouterr().out
    assert printed.count("error: ") == 2 and "nowhere" in printed and "00002.jpg" in printed
    assert (
        "mask on 2 of 3 frames" in printed and "mask on 4 of 5 frames" in printed
    )  # nothing is on frame 0, one colour
    assert names(tmp_path / "out" / "one") == ["00000", "00001", "00002"]
    assert len(names(tmp_path / "out" / "two.mp4")) == 5
    assert not (tmp_path / "out" / "broken" / "masks").exists()
    assert run(monkeypatch, box, tmp_path / "again", *good) == 0


def test_two_videos_of_one_name_are_refused(tmp_path: Path, box: Path, monkeypatch, capsys):
    videos = [clip(tmp_path / side / "clip", 2) for side in ("a", "b")]
    assert run(monkeypatch, box, tmp_path / "out", *videos) == 1
    assert "two videos have one name" in capsys.readouterr().out


# ---- notes and sizes ----


def test_what_there_is_to_say_about_a_video_is_printed(tmp_path: Path, box: Path, monkeypatch, capsys):
    video = save_each(tmp_path / "clip", ["1.jpg", "2.jpg", "7.jpg", "8.jpg"])
    (video / "Thumbs.db").write_bytes(b"")
    assert run(monkeypatch, box, tmp_path / "out", video) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "1 other file is ignored: Thumbs.db" in told and "leave gaps" in told and "2 to 7" in told


@pytest.mark.parametrize("size", [(1, 1), (1, 8), (7, 1), (33, 17)])
def test_frames_of_any_size_have_masks_and_an_overlay(tmp_path: Path, box: Path, monkeypatch, size: tuple[int, int]):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    video = save_each(tmp_path / "clip", ["0.png", "1.png"], lambda _, path: Image.fromarray(pixels).save(path))
    assert run(monkeypatch, box, tmp_path / "out", video) == 0
    with (
        Image.open(tmp_path / "out" / "masks" / "1.png") as mask,
        av.open(str(tmp_path / "out" / "overlay.mp4")) as made,
    ):
        assert mask.size == size[::-1]
        shown = [frame.to_ndarray(format="rgb24").shape[:2] for frame in made.decode(video=0)]
    assert shown == [tuple(max(2, side // 2 * 2) for side in size)] * 2
