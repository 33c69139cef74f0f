"""Frames in shared memory: processes read what others decoded, within a bound; a full memory is no error."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from env.errors import DataError
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
