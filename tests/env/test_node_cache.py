"""Frames in shared memory: processes read what others decoded, within a bound; a full memory is no error."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from env.errors import DataError, MachineError
from env.frames import FrameCache, probe
from env.node_cache import STALE, NodeCache
from env.types import FrameRef
from tests.env.test_frames import write_folder

MB = 1 << 20
FRAME = FrameRef(0, 40, 24, "strip")


def held(cache: NodeCache) -> int:
    return sum(path.stat().st_size for path in cache.folder.glob("*"))


def test_a_process_reads_what_another_one_decoded(tmp_path: Path):
    write_folder(tmp_path / "clip", 2)
    script = (
        "import sys; from pathlib import Path; from env.frames import FrameCache, probe\n"
        "from env.node_cache import NodeCache; from env.types import FrameRef\n"
        "folder = Path(sys.argv[1]); node = NodeCache('run', 64 << 20, folder)\n"
        "FrameCache(node=node).pixels(probe(folder / 'clip'), FrameRef(0, 40, 24, 'strip'))"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    ref = probe(tmp_path / "clip")
    expected = FrameCache().pixels(ref, FRAME)
    (tmp_path / "clip" / "00000.jpg").unlink()
    assert (FrameCache(node=NodeCache("run", 64 * MB, tmp_path)).pixels(ref, FRAME) == expected).all()
    with pytest.raises(DataError, match="missing"):
        FrameCache(node=NodeCache("another run", 64 * MB, tmp_path)).pixels(ref, FRAME)
    cache = FrameCache(node=NodeCache("run", 64 * MB, tmp_path))
    with pytest.raises(ValueError, match="read-only"):
        cache.pixels(ref, FRAME)[0] = 1


def test_it_stays_within_its_bound_and_drops_the_least_recently_used(tmp_path: Path):
    cache = NodeCache("run", 16 * MB, tmp_path)
    make = lambda: np.zeros(MB // 2, np.uint8)  # noqa: E731
    for number in range(100):
        cache.get(number, make)
        cache.get(0, make)  # always in use
        assert held(cache) <= 17.1 * MB
    assert held(cache) > 14 * MB
    for number, is_kept in ((0, True), (99, True), (50, False)):
        made: list[int] = []
        cache.get(number, lambda made=made: np.full(1, made.append(1) is None, np.uint8))
        assert bool(made) is not is_kept
    cache.get("too large", lambda: np.zeros(2 * MB, np.uint8))
    assert held(cache) <= 17.1 * MB


def test_a_full_or_a_cleared_node_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = NodeCache("run", 16 * MB, tmp_path)
    cache.clear()
    assert cache.get("a", lambda: np.ones(3)).sum() == 3
    full = NodeCache("run", 16 * MB, tmp_path)

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("env.node_cache.np.save", no_space)
        assert full.get("b", lambda: np.ones(3)).sum() == 3
    assert list(full.folder.glob("*")) == []


def test_caches_of_killed_runs_are_freed(tmp_path: Path):
    left, used = NodeCache("killed", MB, tmp_path), NodeCache("running", MB, tmp_path)
    long_ago = time.time() - STALE - 10
    os.utime(left.folder, (long_ago, long_ago))
    NodeCache("new", MB, tmp_path)
    assert not left.folder.exists() and used.folder.exists()


def test_the_folder_is_for_this_user_alone(tmp_path: Path):
    before = os.umask(0)
    try:
        cache = NodeCache("run", MB, tmp_path)
    finally:
        os.umask(before)
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert NodeCache("run", MB, tmp_path).folder == cache.folder


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701, 0o777])
def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path, mode: int):
    folder = NodeCache("run", MB, tmp_path).folder
    folder.chmod(mode)
    with pytest.raises(MachineError, match=f"found one with mode {mode:o}; remove it, or set grpo.node_cache_gb=0"):
        NodeCache("run", MB, tmp_path)


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: own + 1)  # what lies there under our name is another user's
    with pytest.raises(MachineError, match=f"found one of user {own}"):
        NodeCache("run", MB, tmp_path)


def test_a_link_or_a_file_in_its_place_is_refused(tmp_path: Path):
    folder = NodeCache("run", MB, tmp_path).folder
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MachineError, match="found a link or a file"):
        NodeCache("run", MB, tmp_path)
    folder.unlink()
    folder.touch(mode=0o700)
    with pytest.raises(MachineError, match="a part of the path is a file"):
        NodeCache("run", MB, tmp_path)
    folder.unlink()
    folder.symlink_to(tmp_path / "nowhere")  # which the search for old caches meets too
    with pytest.raises(MachineError):
        NodeCache("run", MB, tmp_path)


def test_a_link_of_an_old_date_is_not_followed(tmp_path: Path):
    kept = tmp_path / "kept"
    kept.mkdir()
    long_ago = time.time() - STALE - 10
    link = tmp_path / f"videoseg-{os.getuid()}-link"
    link.symlink_to(kept)
    os.utime(kept, (long_ago, long_ago))
    os.utime(link, (long_ago, long_ago), follow_symlinks=False)
    NodeCache("run", MB, tmp_path)
    assert kept.is_dir()
