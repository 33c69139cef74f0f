"""Files are whole at every moment, and what the machine refuses is one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from env.errors import MachineError
from env.files import append_lines, keep_lines, read_lines, replace_file, replace_folder, write_json, write_text


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
