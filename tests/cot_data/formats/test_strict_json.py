"""Every JSON file of every data set is read strictly: one DataError that names the file, whatever is wrong with it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from cot_data.datasets import load_tasks
from cot_data.formats import json_stream
from cot_data.formats.json_fields import read_json
from cot_data.formats.json_stream import read_members
from cot_data.formats.rl_records import read_rl_records
from cot_data.formats.vts_cot import read_records
from env.errors import DataError
from tests.env.test_json_text import FAULTS
from tests.helpers.data_faults import faults_of
from tests.helpers.published_layouts import LAYOUTS


def key_twice(at: int) -> Callable[[str], str]:
    """Return a change of a JSON text that repeats the first key of its object number `at`, counted from the start."""

    def apply(text: str) -> str:
        objects = list(re.finditer(r'\{("[^"]*"):', text))
        found = objects[at * (len(objects) - 1) // 2]
        return f"{text[: found.start() + 1]}{found[1]}: 0, {text[found.start() + 1 :]}"

    return apply


DAMAGE: dict[str, tuple[Callable[[str], str], str]] = {
    "key twice, first object": (key_twice(0), "stands twice"),
    "key twice, middle object": (key_twice(1), "stands twice"),
    "key twice, last object": (key_twice(2), "stands twice"),
    "NaN": (lambda text: text.replace("{", '{"x": NaN, ', 1), "NaN"),
    "long integer": (lambda text: text.replace("{", '{"x": ' + "9" * 5000 + ", ", 1), "4300 digits"),
    "deep nesting": (lambda text: text.replace("{", '{"x": ' + "[" * 200_000, 1), "nested too deeply"),
    "byte order mark": (lambda text: "\ufeff" + text, "byte order mark"),
    "half of a surrogate pair": (lambda text: text.replace("{", '{"x": "\\udc80", ', 1), "surrogate"),
}


def json_files(folder: Path, root: Path) -> list[Path]:
    """Return the files that a data set is read from: of Ref-YouTube-VOS only some splits'."""
    read = {root.name, "test"} if root.name == "valid" else {root.name}
    files = sorted(path for path in folder.rglob("*.json") if path.stat().st_size > 2)
    return [path for path in files if path.parent.parent.name != "meta_expressions" or path.parent.name in read]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_of_a_data_set_is_one_error(layout: str, kind: str, tmp_path: Path) -> None:
    name, write = LAYOUTS[layout]
    change, reason = DAMAGE[kind]
    root = write(tmp_path)
    assert json_files(tmp_path, root)
    for path in json_files(tmp_path, root):
        whole = path.read_text()
        path.write_text(change(whole))
        with pytest.raises(DataError) as caught:
            list(load_tasks(name, root))
        assert str(path) in str(caught.value) and reason in str(caught.value)
        assert any(str(path) in fault.where and reason in fault.problem for fault in faults_of(name, root))
        path.write_text(whole)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize(("text", "reason"), FAULTS.items(), ids=range(len(FAULTS)))
def test_the_streaming_reader_refuses_what_the_other_refuses(
    text: str, reason: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    path = tmp_path / "m.json"
    path.write_text(text)
    if len(text) > 50_000 and chunk == 1:
        return  # a chunk of one character reads the text again and again
    with pytest.raises(DataError, match=r"m\.json: expected"):
        list(read_members(path))
    path.write_text(f'{{"0": null, "1": {text}, "2": 0}}')
    with pytest.raises(DataError, match=r"m\.json: expected"):
        list(read_members(path))
    with pytest.raises(DataError, match=r"m\.json: expected"):
        read_json(path)


def test_a_key_far_behind_its_first_is_found_within_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", 64)
    path = tmp_path / "m.json"
    path.write_text(json.dumps({str(i): [i] for i in range(3000)})[:-1] + ', "1234": []}')
    with pytest.raises(DataError, match="the key '1234' stands twice"):
        list(read_members(path))
    monkeypatch.setattr(json_stream, "MAX_KEYS", 5000)
    with pytest.raises(DataError, match="keys have more than 5000 characters"):
        list(read_members(path))


@pytest.mark.parametrize("reader", [read_json, read_records, read_rl_records, lambda path: list(read_members(path))])
def test_only_regular_files_are_opened(reader: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", tmp_path, tmp_path / "nowhere.json"):
        with pytest.raises(DataError, match="expected a JSON file, found none"):
            reader(path)
