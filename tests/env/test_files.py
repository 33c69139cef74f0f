"""Files are whole at every moment, and what the machine refuses is one sentence."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from env.errors import DataError, MachineError
from env.files import (
    STALE,
    append_bytes,
    append_lines,
    keep_lines,
    machine_errors,
    read_lines,
    remove_folder,
    replace_file,
    replace_folder,
    replace_path,
    restore_folder,
    write_json,
    write_text,
)
from tests.helpers.full_disk import no_file_longer_than


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replace_file(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_text() == "old" and _names(tmp_path) == ["a.json"]


def test_numbers_that_are_not_finite_reach_no_file(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert _names(tmp_path) == []


@pytest.mark.parametrize("write", [lambda path: write_text(path, "new"), lambda path: append_lines(path, ["a\n"])])
def test_what_the_machine_refuses_is_one_sentence(tmp_path, write):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(MachineError, match=r"file/a.json: cannot be written \(Not a directory\); a part of the path"):
        write(tmp_path / "file" / "a.json")
    with pytest.raises(MachineError, match="folder: cannot be written"):
        write(tmp_path / "folder")
    with pytest.raises(MachineError, match=r"/dev/full: cannot be written|Permission denied"):
        append_lines(Path("/dev/full"), ["a\n"])


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "step"
    with replace_folder(folder) as draft:
        (draft / "a").write_text("1")
    with pytest.raises(RuntimeError), replace_folder(folder) as draft:
        (draft / "b").write_text("2")
        raise RuntimeError
    assert _names(folder) == ["a"] and _names(tmp_path) == ["step"]
    with replace_folder(folder) as draft:
        (draft / "c").write_text("3")
    assert _names(folder) == ["c"] and _names(tmp_path) == ["step"]


def test_a_folder_that_a_killed_process_moved_away_comes_back(tmp_path):
    (tmp_path / ".step.former").mkdir()
    (tmp_path / ".step.former" / "a").write_text("1")
    with pytest.raises(RuntimeError), replace_folder(tmp_path / "step"):
        raise RuntimeError
    assert _names(tmp_path / "step") == ["a"]


def test_a_torn_last_line_is_cut_off_by_the_next_writer(tmp_path):
    path = tmp_path / "lines.jsonl"
    append_lines(path, ["1\n", "2\n"])
    path.write_bytes(path.read_bytes() + b"thr")
    with pytest.warns(UserWarning, match="lines.jsonl:3: left out an unfinished last line"):
        assert [line for _, line in read_lines(path)] == [b"1\n", b"2\n"]
    append_lines(path, ["3\n"])
    assert path.read_text() == "1\n2\n3\n"
    keep_lines(path, lambda place, line: line != b"2\n")
    assert path.read_text() == "1\n3\n" and _names(tmp_path) == ["lines.jsonl"]


def test_a_writer_killed_at_any_moment_leaves_the_old_content_or_the_new(tmp_path):
    path = tmp_path / "a.json"
    write_text(path, "0" * 100_000)
    program = (
        "import sys; from pathlib import Path; from env.files import write_text\n"
        "for i in range(10**6): write_text(Path(sys.argv[1]), str(i % 10) * 100_000); print(i, flush=True)"
    )
    for rounds in (1, 5, 20):
        with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            for _ in range(rounds):
                writer.stdout.readline()
            writer.kill()
        found = path.read_text()
        assert len(found) == 100_000 and len(set(found)) == 1


def test_every_write_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    calls: list[str] = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), real_sync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), real_replace(a, b))[1])
    write_text(tmp_path / "a", "1")
    assert calls == ["fsync", "rename", "fsync"]
    calls.clear()
    append_lines(tmp_path / "b", ["1\n"])
    assert calls == ["fsync", "fsync"]  # the file and its folder


def save_tensors(path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(10_000)}, path)


def save_state(path: Path) -> None:
    import torch

    torch.save({"a": torch.zeros(10_000)}, path)


def save_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer

    Tokenizer.from_file("policy/tiny/vlm/tokenizer.json").save(str(path))


def save_video(path: Path) -> None:
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width = stream.height = 256
        for _ in range(5):
            pixels = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize("save", [save_tensors, save_state, save_tokenizer, save_video])
def test_a_full_disk_is_one_sentence_whatever_library_writes(tmp_path, save):
    path = tmp_path / "a.mp4"
    path.write_text("old")
    with (
        no_file_longer_than(2000),
        pytest.raises(MachineError, match=r"a\.mp4: cannot be written \(.+\); .+start again"),
        replace_path(path) as draft,
    ):
        save(draft)
    assert path.read_text() == "old" and _names(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize("room", [0, 1, 7])
def test_lines_that_find_no_space_leave_the_file_as_it_was(tmp_path, room):
    path = tmp_path / "a.jsonl"
    append_lines(path, ["1\n", "2\n"])
    path.write_bytes(path.read_bytes() + b"torn")
    told = r"a\.jsonl: cannot be written \(File too large\); raise the limit"
    with no_file_longer_than(4 + room), pytest.raises(MachineError, match=told):
        append_lines(path, ["a long line\n"])
    assert path.read_bytes() == b"1\n2\n"
    with no_file_longer_than(4 + room), pytest.raises(MachineError):
        append_bytes(path, b"0123456789")
    assert path.read_bytes() == b"1\n2\n"


def test_errors_that_are_not_the_machines_pass(tmp_path):
    for error in (ValueError("os error"), DataError("a", "b (os error 28)"), KeyError("x")):
        with pytest.raises(type(error)), replace_path(tmp_path / "a"):
            raise error
    with pytest.raises(MachineError, match="No space left on device"), machine_errors(tmp_path):
        raise ValueError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(MachineError, match="quota"), machine_errors(tmp_path):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")


def test_a_file_and_a_folder_do_not_replace_each_other(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("mine")
    with pytest.raises(MachineError, match="file: cannot be written"), replace_folder(tmp_path / "file"):
        raise AssertionError("not before the work")
    with pytest.raises(MachineError, match="folder: cannot be written"), replace_path(tmp_path / "folder"):
        raise AssertionError("not before the work")
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "a").read_text() == "mine"


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for text in ("1", "2"):
        with replace_folder(tmp_path / "link") as draft:
            write_text(draft / "a", text)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "a").read_text() == "2"
    assert _names(tmp_path) == ["link", "real"]


def test_drafts_of_killed_writers_go_and_those_of_living_ones_stay(tmp_path):
    old, new, other = (tmp_path / name for name in (".a.1.partial.json", ".a.2.partial.json", ".b.3.partial.json"))
    for path in (old, new, other):
        path.write_text("half")
    os.utime(old, (0, 0))
    os.utime(other, (0, 0))
    write_json(tmp_path / "a.json", 1)
    assert _names(tmp_path) == [new.name, other.name, "a.json"] and STALE >= 600


def test_a_folder_is_gone_at_once(tmp_path, monkeypatch):
    folder = tmp_path / "step-1"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_text("1")
    seen = []
    real = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", lambda path, **more: (seen.append(_names(tmp_path)), real(path, **more)))
    remove_folder(folder)
    assert all("step-1" not in names for names in seen[1:]) and _names(tmp_path) == []


def test_a_failed_exchange_puts_the_former_folder_back(tmp_path, monkeypatch):
    folder = tmp_path / "step"
    with replace_folder(folder) as draft:
        write_text(draft / "a", "1")
    real = os.replace

    def fail_at_the_second(a: Path, b: Path) -> None:
        if Path(b) == folder and Path(a).name.endswith(".partial"):
            raise OSError(errno.EIO, "Input/output error")
        real(a, b)

    monkeypatch.setattr(os, "replace", fail_at_the_second)
    with pytest.raises(MachineError, match="Input/output error"), replace_folder(folder) as draft:
        (draft / "b").write_text("2")
    assert _names(folder) == ["a"] and _names(tmp_path) == ["step"]


def test_what_a_kill_between_the_renames_left_is_put_back(tmp_path):
    former = tmp_path / ".step.former"
    former.mkdir()
    (former / "a").write_text("1")
    restore_folder(tmp_path / "step")
    assert _names(tmp_path / "step") == ["a"] and not former.exists()
    former.mkdir()
    restore_folder(tmp_path / "step")
    assert _names(tmp_path / "step") == ["a"] and not former.exists(), "a whole exchange only needs tidying"


def test_a_kept_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a.jsonl"
    append_lines(path, ["1\n", "2\n"])
    inode = path.stat().st_ino
    with pytest.raises(DataError):
        keep_lines(path, lambda place, line: _fail(place) if line == b"2\n" else True)
    assert path.read_text() == "1\n2\n" and path.stat().st_ino == inode
    keep_lines(path, lambda place, line: line == b"2\n")
    assert path.read_text() == "2\n" and _names(tmp_path) == ["a.jsonl"]


def _fail(place: str) -> bool:
    raise DataError(place, "bad")


def test_a_file_system_that_flushes_no_folders_is_written_to(tmp_path, monkeypatch):
    real = os.fsync

    def refuse_folders(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").resolve().is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        real(handle)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    write_text(tmp_path / "a", "1")
    assert (tmp_path / "a").read_text() == "1"
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(MachineError, match="Input/output error"):
        write_text(tmp_path / "a", "2")
    assert (tmp_path / "a").read_text() == "1"
