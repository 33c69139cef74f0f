"""Mask dictionaries: the streaming JSON reader against `json`, the unpickler against `pickle`, the Arrow table."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from cot_data.datasets import load_tasks
from cot_data.formats import json_stream
from cot_data.formats.json_stream import read_members
from cot_data.formats.mask_table import CACHE, CACHE_ENV, MaskTable, convert_to_arrow
from cot_data.formats.safe_pickle import read_pickle
from env.errors import DataError, MachineError
from tests.helpers import published_layouts
from tests.helpers.published_layouts import rles

TEXTS = [
    "{}",
    ' { "a" : [1, 2.5e3, null, "x\\"]}"] ,\n"b":{"c":[]}, "\\u00e9": -12, "": true } ',
    json.dumps({str(i): [{"size": [1, 2], "counts": "\\" * i}, None] for i in range(40)}, indent=1),
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_members_equal_those_of_the_json_module(
    text: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    (tmp_path / "m.json").write_text(text)
    assert dict(read_members(tmp_path / "m.json")) == json.loads(text)


NO_OBJECTS = [
    "",
    "[1]",
    "{",
    '{"a"}',
    '{"a": 1,}',
    '{"a": 1 "b": 2}',
    '{"a": [1}',
    '{"a": 1} x',
    "{a: 1}",
    '{"a": 12',
    "\0",
]


@pytest.mark.parametrize("text", NO_OBJECTS)
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_errors_name_a_file_without_an_object(
    text: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(DataError, match=r"m\.json: expected"):
        list(read_members(tmp_path / "m.json"))


def test_an_endless_member_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", 16)
    monkeypatch.setattr(json_stream, "MAX_MEMBER", 100)
    (tmp_path / "m.json").write_text('{"a": [' + "1, " * 1000 + "1]}")
    with pytest.raises(DataError, match="expected JSON"):
        list(read_members(tmp_path / "m.json"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_are_read(protocol: int, tmp_path: Path) -> None:
    value = {"1": [{"size": [4, 6], "counts": b"\x00\xffab"}, None, ("x", 2.5, True, 1 << 70)], 3: []}
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(value, protocol))
    assert read_pickle(tmp_path / "m.pkl") == value


class Runs:
    """An object whose pickle runs code."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"1": np.zeros(3)}, "numpy"),
        (OrderedDict(), "collections.OrderedDict"),
        ({"1": {2}}, "set"),
        (Runs(), "posix.mkdir"),
        (eval, "eval"),
    ],
)
def test_pickles_of_other_classes_are_rejected_by_name(
    value: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(value, 2))
    with pytest.raises(DataError, match=f"it names .*{name}.*, which is not allowed"):
        read_pickle(tmp_path / "m.pkl")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"junk", b"\x80\x04}q", b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f"]
)
def test_errors_name_damaged_pickles(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(data)
    with pytest.raises(DataError, match=r"m\.pkl: expected"):
        read_pickle(tmp_path / "m.pkl")


def test_only_pkl_files_are_unpickled(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_bytes(pickle.dumps({}))
    with pytest.raises(DataError, match=r"ends in \.pkl"):
        read_pickle(tmp_path / "m.json")


def test_masks_are_converted_once_and_again_when_they_change(tmp_path: Path) -> None:
    root = published_layouts.mevis(tmp_path)
    load_tasks("mevis", root)
    (table,) = (root / CACHE).iterdir()
    assert Dataset.from_file(str(table))["anno_id"][:] == ["7", "8"]
    before = table.stat().st_mtime_ns
    load_tasks("mevis", root)
    assert [(root / CACHE / table.name).stat().st_mtime_ns] == [
        path.stat().st_mtime_ns for path in (root / CACHE).iterdir()
    ]
    assert table.stat().st_mtime_ns == before
    (root / "mask_dict.json").write_text(json.dumps({"7": rles(2), "8": rles(1)}))
    assert load_tasks("mevis", root)[0].gold == tuple(rles(1))
    (fresh,) = (root / CACHE).iterdir()
    assert fresh.name != table.name


def test_the_cache_folder_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_ENV, str(tmp_path / "cache"))
    first, second = published_layouts.mevis(tmp_path / "a"), published_layouts.mevis(tmp_path / "b")
    assert load_tasks("mevis", first)[0].gold == load_tasks("mevis", second)[0].gold
    assert len(list((tmp_path / "cache").iterdir())) == 2 and not (first / CACHE).exists()


def test_an_error_names_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    root = published_layouts.mevis(tmp_path)
    (root / CACHE).write_text("in the way")
    with pytest.raises(MachineError, match=f"name a folder for converted masks in {CACHE_ENV}"):
        load_tasks("mevis", root)
    assert (root / CACHE).is_file()


def test_a_failed_conversion_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "mask_dict.json").write_text('{"7": [null], "8": [')
    with pytest.raises(DataError):
        convert_to_arrow(tmp_path / "mask_dict.json")
    assert list((tmp_path / CACHE).iterdir()) == []


def test_another_process_reads_the_table_by_its_path(tmp_path: Path) -> None:
    root = published_layouts.mevis(tmp_path)
    table = MaskTable(root / "mask_dict.json")
    tasks = load_tasks("mevis", root)
    assert tasks[1].gold and len(pickle.dumps(table)) < 500
    (tmp_path / "tasks").write_bytes(pickle.dumps(tasks))
    code = "import pickle, sys; print(len(pickle.load(open(sys.argv[1], 'rb'))[1].gold))"
    command = [sys.executable, "-c", code, str(tmp_path / "tasks")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "4"
