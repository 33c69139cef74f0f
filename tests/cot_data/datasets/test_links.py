"""Links in data sets: anywhere inside the root, nowhere else, for every kind of file, unless the setting allows it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cot_data.datasets import load_tasks, ref_sav
from env.data_root import FOLLOW_ENV
from env.errors import DataError
from env.frames import FrameCache
from tests.helpers.data_faults import faults_of
from tests.helpers.published_layouts import LAYOUTS


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def data_root(name: str, root: Path) -> Path:
    """Return the folder that files may not lead out of."""
    return root.parent if name in ("ref_youtube_vos", "ref_davis17", "revos") else root


def move(path: Path, outside: Path) -> None:
    """Move a file or folder out of the data root, and leave a link to it."""
    outside.mkdir(exist_ok=True)
    target = outside / path.name
    path.rename(target)
    path.symlink_to(target)


def take_all(name: str, root: Path) -> list[object]:
    """Read every task, and the pixels of its frames."""
    ref_sav._masklet.cache_clear()
    cache = FrameCache()
    tasks = list(load_tasks(name, root))
    return [(task, [cache.full(task.video, at).sum() for at in range(task.video.num_frames)]) for task in tasks]


def is_read(link: Path, name: str, root: Path, whole: list[object]) -> bool:
    """Return whether the data set differs without a file, and so reads it."""
    target = link.readlink()
    link.unlink()
    try:
        return take_all(name, root) != whole
    except DataError:
        return True
    finally:
        link.symlink_to(target)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_single_file_that_leads_out_is_refused_whatever_it_holds(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, write = LAYOUTS[layout]
    root = write(tmp_path / "data")
    whole = take_all(name, root)
    outside = data_root(name, root).parent / "outside"
    num_refused = 0
    for path in files_below(data_root(name, root)):
        if "videoseg_cache" in str(path):
            continue
        move(path, outside)
        if is_read(path, name, root, whole):
            with pytest.raises(DataError, match="the data root") as caught:
                take_all(name, root)
            assert path.name in str(caught.value) and FOLLOW_ENV in str(caught.value)
            assert any(path.name in str(fault) for fault in faults_of(name, root))
            num_refused += 1
        monkeypatch.setenv(FOLLOW_ENV, "1")
        assert take_all(name, root) == whole and faults_of(name, root) == []
        monkeypatch.delenv(FOLLOW_ENV)
        path.unlink()
        (outside / path.name).rename(path)
    assert num_refused >= 2


@pytest.mark.parametrize("layout", ["mevis", "revos", "reason_vos", "groundmore"])
def test_links_inside_the_root_and_of_the_root_itself_are_followed(layout: str, tmp_path: Path) -> None:
    name, write = LAYOUTS[layout]
    root = write(tmp_path / "data")
    whole = [expected.gold for expected in load_tasks(name, root)]
    for path in files_below(data_root(name, root)):
        if path.suffix in (".jpg", ".png"):
            store = data_root(name, root) / "store" / path.relative_to(data_root(name, root))
            store.parent.mkdir(parents=True, exist_ok=True)
            path.rename(store)
            path.symlink_to(os.path.relpath(store, path.parent))
    (tmp_path / "link").symlink_to(data_root(name, root))
    linked = tmp_path / "link" / root.name if root != data_root(name, root) else tmp_path / "link"
    assert [task.gold for task in load_tasks(name, linked)] == whole
    assert faults_of(name, root) == []


@pytest.mark.parametrize("folder", ["JPEGImages", "JPEGImages/clip"])
def test_a_folder_that_leads_out_is_refused(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = LAYOUTS["mevis"][1](tmp_path / "data")
    whole = take_all("mevis", root)
    move(root / folder, tmp_path / "outside")
    with pytest.raises(DataError, match=f"leads out of the data root, to .*; move it inside, or set {FOLLOW_ENV}=1"):
        take_all("mevis", root)
    monkeypatch.setenv(FOLLOW_ENV, "0")
    with pytest.raises(DataError):
        take_all("mevis", root)
    monkeypatch.setenv(FOLLOW_ENV, "1")
    assert take_all("mevis", root) == whole


def test_a_loop_of_links_is_one_error(tmp_path: Path) -> None:
    root = LAYOUTS["mevis"][1](tmp_path)
    (root / "JPEGImages" / "clip" / "00000.jpg").unlink()
    (root / "JPEGImages" / "clip" / "00000.jpg").symlink_to("00000.jpg")
    with pytest.raises(DataError, match="cannot be followed"):
        take_all("mevis", root)
