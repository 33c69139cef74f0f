"""`cot_data.check` reports every planted fault with file, record and field, and no others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from cot_data.check import cells, check
from cot_data.datasets import load_tasks
from cot_data.faults import Faults
from env.errors import DataError
from tests.helpers.media import damaged_packet, many_scans, numbered_video
from tests.helpers.planted_faults import FAULTS, damaged
from tests.helpers.published_layouts import LAYOUTS, NAMES


@pytest.mark.parametrize("layout", LAYOUTS)
def test_valid_data_has_no_faults(layout: str, tmp_path: Path) -> None:
    name, write = LAYOUTS[layout]
    assert check(name, write(tmp_path)).found == []


@pytest.mark.parametrize("layout", FAULTS)
def test_every_planted_fault_is_reported(layout: str, tmp_path: Path) -> None:
    name, root = damaged(layout, tmp_path)
    reported = [cells(fault) for fault in check(name, root).found]
    for _, file, record, field, problem in FAULTS[layout]:
        fits = [
            row
            for row in reported
            if row[0].endswith(file) and row[1:3] == (record, field) and problem in row[3] and row[4] != ""
        ]
        assert len(fits) >= 1, (file, record, field, problem, reported)
    assert len({row[:4] for row in reported}) == len(reported), "each fault once"


def test_there_are_enough_faults() -> None:
    assert sum(len(planted) for planted in FAULTS.values()) >= 25


@pytest.mark.parametrize("layout", FAULTS)
def test_a_loader_raises_a_fault_that_the_check_lists(layout: str, tmp_path: Path) -> None:
    name, root = damaged(layout, tmp_path)
    listed = {(fault.where, fault.problem) for fault in check(name, root).found}
    with pytest.raises(DataError) as caught:
        list(load_tasks(name, root))
    assert (caught.value.where, caught.value.problem) in listed


def run(root: Path, name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cot_data.check", str(root), "--dataset", name]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_prints_a_table_and_fails(tmp_path: Path) -> None:
    name, root = damaged("revos", tmp_path)
    done = run(root, name)
    assert done.returncode == 1
    assert "2 faults" in done.stdout and "type_id" in done.stdout and "what to do" in done.stdout
    valid = LAYOUTS["revos"][1](tmp_path / "valid")
    done = run(valid, name)
    assert (done.returncode, done.stdout) == (0, f"{valid}: 0 faults\n")


def test_a_missing_root_is_one_fault(tmp_path: Path) -> None:
    (fault,) = check("mevis", tmp_path / "nowhere").found
    assert "expected a JSON file, found none" in fault.problem


# ---- frames are decoded ----


def cut_frame(root: Path, name: str) -> Path:
    """Cut a frame behind its header."""
    path = root / "JPEGImages" / "clip" / f"{name}.jpg"
    data = path.read_bytes()
    path.write_bytes(data[: data.rfind(b"\xff\xda") + 30])
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_frame_that_cannot_be_decoded_is_found(tmp_path: Path, name: str) -> None:
    root = LAYOUTS["mevis"][1](tmp_path)
    path = cut_frame(root, name)
    (fault,) = check("mevis", root).found
    assert cells(fault)[:3] == (str(path), "videos['clip']", f"frames[{NAMES.index(name)}]")
    assert "cannot be decoded" in fault.problem
    list(load_tasks("mevis", root))  # its header is whole, so a loader finds nothing


def test_a_named_share_of_the_frames_is_decoded(tmp_path: Path) -> None:
    root = LAYOUTS["mevis"][1](tmp_path)
    for name in NAMES:
        cut_frame(root, name)
    found = {share: len(check("mevis", root, share).found) for share in (0.0, 0.25, 0.5, 1.0)}
    assert found == {0.0: 0, 0.25: 1, 0.5: 2, 1.0: 4}
    assert [at for at in range(40) if Faults(decode=0.1).decodes(at)] == [0, 10, 20, 30]
    assert sum(Faults(decode=0.3).decodes(at) for at in range(1000)) == 300
    command = [sys.executable, "-m", "cot_data.check", str(root), "--dataset", "mevis", "--decode"]
    for share, status in (("0", 0), ("0.3", 1), ("1.5", 2), ("some", 2)):
        done = subprocess.run([*command, share], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == status and "Traceback" not in done.stderr


def test_a_damaged_frame_of_a_video_file_is_found(tmp_path: Path) -> None:
    root = LAYOUTS["ref_sav train"][1](tmp_path)
    path = root / "sav_train" / "sav_000" / "sav_000001.mp4"
    numbered_video(path, 13, options={"g": "1"})
    assert check("ref_sav", root).found == []
    bad = damaged_packet(path, 8)
    faults = check("ref_sav", root).found
    assert bad == 8 and any("frame 8 of 13 is missing or damaged" in fault.problem for fault in faults)
    assert all(str(path) in fault.where for fault in faults)


@pytest.mark.timeout(60)
def test_odd_files_among_the_frames_are_faults(tmp_path: Path) -> None:
    root = LAYOUTS["mevis"][1](tmp_path)
    folder = root / "JPEGImages" / "clip"
    for name in NAMES[1:]:
        (folder / f"{name}.jpg").unlink()
    os.mkfifo(folder / f"{NAMES[1]}.jpg")
    many_scans(folder / f"{NAMES[2]}.jpg", 3000)
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (80, 48)).save(folder / f"{NAMES[3]}.JPG", "JPEG", exif=exif)
    problems = [fault.problem for fault in check("mevis", root).found]
    assert len(problems) == 3
    for problem, part in zip(problems, ("found a FIFO", "at most 100 scans", "found 48x80"), strict=True):
        assert part in problem


def test_notes_on_a_folder_that_names_no_frames_are_printed(tmp_path: Path) -> None:
    root = LAYOUTS["groundmore"][1](tmp_path)
    folder = root / "annotations" / "match_0010_0012" / "images"
    (folder / "Thumbs.db").touch()
    (folder / "._frame_000001.jpg").touch()
    faults = check("groundmore", root)
    assert faults.found == []
    assert faults.notes == [f"{folder}: 2 other files are ignored: ._frame_000001.jpg, Thumbs.db"]


@pytest.mark.timeout(60)
def test_odd_files_among_masks_are_faults_and_not_absent_objects(tmp_path: Path) -> None:
    for layout, folder, names in (
        ("long_rvos", "Annotations/clip/1", ["00000.png", "00005.png"]),
        ("groundmore", "annotations/match_0010_0012/masks", ["0000000.png", "0000002.png"]),
        ("ref_youtube_vos", "Annotations/train", ["00000.png", "00005.png"]),
    ):
        name, write = LAYOUTS[layout]
        root = write(tmp_path / layout)
        for path in (root / folder / each for each in names):
            path.unlink()
        os.mkfifo(root / folder / names[0])
        (root / folder / names[1]).symlink_to("nowhere.png")
        problems = {fault.problem for fault in check(name, root).found}
        assert any("found a FIFO" in problem for problem in problems), (layout, problems)
        assert any("the file is missing" in problem for problem in problems), (layout, problems)
