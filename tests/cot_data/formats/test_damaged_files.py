"""Data by hand: every damaged form of every file is one sentence that names the file, or is read."""

from __future__ import annotations

import copy
import json
import pickle
import pickletools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import EnvConfig
from cot_data.datasets import load_tasks
from cot_data.formats import safe_pickle
from cot_data.formats.mask_rows import MAX_GROWTH
from cot_data.formats.mask_table import CACHE, convert_to_arrow
from cot_data.formats.rl_records import read_rl_records
from cot_data.formats.safe_pickle import read_pickle
from cot_data.formats.vts_cot import read_records, to_json
from cot_data.moving_shapes.captions import describe
from cot_data.moving_shapes.generate import ShapesConfig, write_moving_shapes
from cot_data.moving_shapes.labels import load_objects
from cot_data.moving_shapes.labels_file import LABELS, size_and_seed
from cot_data.traces.build_journal import BuildJournal, Built
from cot_data.traces.write import write_trace
from env.errors import DataError
from tests.helpers.damage import damaged, truncated
from tests.helpers.published_layouts import LAYOUTS, rles

STEP = 4  # of the forms that are tried; each member has 15, so that other members get other forms
MESSAGES = {"from": "system", "value": ""}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}
ENV = EnvConfig(prompt="brief", size_factor=8)


def outcomes(path: Path, forms: Iterator[tuple[str, Any]], read: Callable[[], Any], under: Path) -> tuple[int, int]:
    """Write each form of a JSON file, read it, and return how many were refused, and how many read.

    An error has to name a file below `under`.
    """
    whole = path.read_text()
    refused = taken = 0
    for what, value in islice(forms, 0, None, STEP):
        path.write_text(json.dumps(value))
        try:
            read()
            taken += 1
        except DataError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 1500 and str(under) in str(error), what
    path.write_text(whole)
    return refused, taken


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes") / "train"
    config = ShapesConfig(size=48, min_frames=32, max_frames=64, explore_share=0.5)
    write_moving_shapes(root, 2, seed=4, config=config, processes=1)
    return root


def one_video(value: dict[str, Any], name: str) -> dict[str, Any]:
    """Return labels of one object and one expression of a video, so that there are few forms of them."""
    video = copy.deepcopy(value["videos"][name])
    video["objects"] = dict(list(video["objects"].items())[:1])
    pays = [item for item in video["expressions"].items() if item[1]["explore"]]
    video["expressions"] = dict((pays or list(video["expressions"].items()))[:1])
    return {**value, "videos": {name: video}}


def test_damaged_labels_of_moving_shapes(shapes: Path) -> None:
    labels = json.loads((shapes / LABELS).read_text())
    name = next(n for n, v in labels["videos"].items() if any(e["explore"] for e in v["expressions"].values()))
    whole = one_video(labels, name)
    others = {other: video for other, video in labels["videos"].items() if other != name}

    def with_others(forms: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        for what, value in forms:
            if isinstance(value.get("videos"), dict):
                value["videos"] = {**others, **value["videos"]}
            yield what, value

    def read() -> None:
        size_and_seed(shapes)
        tasks = load_tasks("mevis", shapes).entries
        objects = {each.video: each.objects for each in load_objects(shapes)}
        for entry in tasks:
            if entry.outline.explore and name in entry.outline.task_id:
                task = entry.task()
                for each in range(3):
                    write_trace(task, ENV, np.random.default_rng(each), "brief", objects=objects[task.video])
        for video in load_objects(shapes):
            describe(video.objects, 0)

    refused, taken = outcomes(shapes / LABELS, with_others(damaged(whole)), read, shapes)
    assert refused > 30 and taken < refused, (refused, taken)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"evidence": []}, r"evidence: expected the frames that show the evidence, since `explore` is set"),
        ({"evidence": [5, 3]}, "evidence: expected frames in order"),
        ({"evidence": [3, 3]}, "evidence: expected frames in order"),
        ({"evidence": [99]}, "evidence: expected frames 0 to"),
        ({"evidence": [True]}, r"evidence\[0\]: expected a number"),
        ({"family": ""}, "family: expected a kind of query"),
        ({"explore": None}, "explore: expected str"),
    ],
)
def test_a_label_that_cannot_be_used_is_named(shapes: Path, changes: dict[str, Any], problem: str) -> None:
    whole = (shapes / LABELS).read_text()
    labels = json.loads(whole)
    for video in labels["videos"].values():
        for label in video["expressions"].values():
            if label["explore"]:
                label.update(changes)
    (shapes / LABELS).write_text(json.dumps(labels))
    try:
        with pytest.raises(DataError, match=rf"moving_shapes\.json: videos\[.*\.expressions\[.*\]\.{problem}"):
            load_tasks("mevis", shapes)
    finally:
        (shapes / LABELS).write_text(whole)


@pytest.mark.parametrize("frames", [[10**9], ["x"], [-1], [None], {}])
def test_marks_lie_in_their_video(shapes: Path, frames: Any) -> None:
    whole = (shapes / LABELS).read_text()
    labels = json.loads(whole)
    for video in labels["videos"].values():
        for each in video["objects"].values():
            each["marks"] = {"flash": frames}
    (shapes / LABELS).write_text(json.dumps(labels))
    try:
        with pytest.raises(DataError, match=r"objects\[.*\]\.marks\.flash"):
            load_objects(shapes)
    finally:
        (shapes / LABELS).write_text(whole)


@pytest.mark.parametrize("style", ["brief", "full"])
@pytest.mark.parametrize("expression", ["it flashes between frame 500 and 900", "between frame 9 and 3", "it flashes"])
def test_a_trace_zooms_inside_its_video_whatever_the_sentence_says(shapes: Path, style: str, expression: str) -> None:
    entries = load_tasks("mevis", shapes).entries
    found = next(entry for entry in entries if entry.outline.explore).task()
    env = replace(ENV, prompt=style, max_turns=3)
    for task in (replace(found, expression=expression), replace(found, expression=expression, evidence=())):
        for seed in range(4):
            record = write_trace(task, env, np.random.default_rng(seed), style, zoom_share=1.0)
            for each in record.cot_trace:
                assert 0 <= each.start_frame <= each.end_frame < task.video.num_frames
                assert 0 <= each.key_frame < task.video.num_frames


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_metadata_of_every_layout(layout: str, tmp_path: Path) -> None:
    name, write = LAYOUTS[layout]
    root = write(tmp_path)
    total = 0
    for path in sorted(tmp_path.rglob("*.json")):
        if path.stat().st_size < 3 or path.name == "mask_dict.json":
            continue
        value = json.loads(path.read_text())
        refused, taken = outcomes(path, damaged(value), lambda: list(load_tasks(name, root)), tmp_path)
        total += refused
        for part in truncated(path.read_bytes()):
            whole = path.read_bytes()
            path.write_bytes(part)
            try:
                list(load_tasks(name, root))
                assert taken  # a file of another split
            except DataError as error:
                assert str(tmp_path) in str(error)
            path.write_bytes(whole)
    assert total > 12


def test_damaged_dictionaries_of_masks(tmp_path: Path) -> None:
    root = LAYOUTS["mevis"][1](tmp_path)
    path = root / "mask_dict.json"
    refused, _ = outcomes(
        path, damaged(json.loads(path.read_text())), lambda: list(load_tasks("mevis", root)), tmp_path
    )
    assert refused > 40


def test_damaged_records(tmp_path: Path) -> None:
    record = {"video_name": "clip", "frames": ["0", "1"], "exp": "it", "anno_id": [1], "exp_id": "3"}
    with_masks = record | {"mask_existence": [1, 0]}
    trace = record | {
        "sample_frame_indice": [0, 1],
        "round_num": 1,
        "cot_trace": [{"start_frame": 0, "end_frame": 1, "key_frame": 0}],
        "conversations": [
            {"from": "system", "value": ""},
            {"from": "human", "value": "q"},
            {"from": "gpt", "value": "a"},
        ],
    }
    for value, read in (([[with_masks]], read_rl_records), ([trace], read_records)):
        path = tmp_path / "r.json"
        path.write_text(json.dumps(value))
        assert len(read(path)) == 1
        refused, taken = outcomes(path, damaged(value), lambda read=read, path=path: read(path), path)  # type: ignore[misc]
        assert refused > 15 and taken < refused


def test_damaged_journals_of_a_build(tmp_path: Path) -> None:
    record = {
        "video_name": "clip", "frames": ["0"], "exp": "it", "anno_id": [], "sample_frame_indice": [0], "round_num": 1,
        "cot_trace": [], "conversations": list(MESSAGES),
    }  # fmt: skip
    path = tmp_path / "t.json.partial.jsonl"
    row = {
        "task_id": "s/clip/0",
        "record": record,
        "left_out": [],
        "words_by": "template",
        "rejected": ["x"],
        "spent": 3,
    }
    path.write_text(json.dumps({"seed": 0}) + "\n" + json.dumps(row) + "\n")
    journal = BuildJournal(tmp_path / "t.json", {"seed": 0})
    (built,) = journal.done
    assert isinstance(built, Built) and built.record and to_json(built.record)["video_name"] == "clip"
    refused = 0
    for what, value in damaged([row]):
        path.write_text(json.dumps({"seed": 0}) + "\n" + "".join(json.dumps(each) + "\n" for each in value))
        try:
            BuildJournal(tmp_path / "t.json", {"seed": 0})
            assert "words_by" not in what
        except DataError as error:
            refused += 1
            assert "t.json.partial.jsonl: line 2" in str(error), what
    assert refused > 100


MASKS = {"1": rles(1), "2": [None, *rles(2)[1:]]}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_cut_or_changed_anywhere_is_one_sentence_or_read(protocol: int, tmp_path: Path) -> None:
    whole = pickle.dumps(MASKS, protocol)
    path = tmp_path / "m.pkl"
    rng = np.random.default_rng(protocol)
    forms = [*truncated(whole)]
    for _ in range(300):
        form = bytearray(whole)
        for at in rng.integers(0, len(form), 1 + int(rng.integers(3))):
            form[at] = int(rng.integers(256))
        forms.append(bytes(form))
    refused = 0
    for form in forms:
        path.write_bytes(form)
        try:
            read_pickle(path)
            convert_to_arrow(path)
        except DataError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error) and len(str(error)) < 600
    assert refused > 100


PROGRAMS = {
    "memory": b"\x80\x02Nr\xff\xff\xff\xff.",  # keeps a value at 2**32: 64 GB in Python's own reader
    "call": b"cos\nsystem\n(S'true'\ntR.",
    "stack call": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "call of bytes": b"c_codecs\nencode\n(S'a'\nS'rot13'\ntR.",
    "call of a list": b"](tR.",
    "instance": b"(ios\nsystem\n.",
    "object": b"(cos\nsystem\no.",
    "new object": b"\x80\x02cos\nsystem\n)\x81.",
    "state": b"\x80\x02c_codecs\nencode\n}b.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent": b"Pid\n.",
    "set": b"\x80\x04\x8f.",
    "bytearray": b"\x80\x05\x96\x01\0\0\0\0\0\0\0a.",
    "buffer": b"\x80\x05\x97.",
    "key is a list": b"}]Ns.",
    "append to a dict": b"}Na.",
    "member of a list": b"]NNs.",
    "odd members": b"}(NNNu.",
    "empty stack": b".",
    "no mark": b"NNt.",
    "huge text": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "other call": b"c_codecs\ndecode\n(S'a'\nS'latin1'\ntR.",
    "unknown": b"\xfe.",
    "no end": b"N",
    "number": b"K\x01.",
    "long number": b"}(\x8b\x10\x27\0\0" + b"\x7f" * 10000 + b"]u.",
    "key twice": b"}(K\x01]X\x01\0\0\x001]u.",
    "tuple as key": b"})]s.",
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_programs_that_are_no_plain_values(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(PROGRAMS[kind])
    with pytest.raises(DataError, match=r"m\.pkl: expected|m\.pkl: the key '1' stands twice"):
        convert_to_arrow(path)


READ = ("memory", "number", "long number", "key twice", "tuple as key")  # plain values, which are no masks


@pytest.mark.parametrize("kind", PROGRAMS)
def test_no_program_but_plain_values_is_carried_out(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(PROGRAMS[kind])
    if kind in READ:
        read_pickle(path)
        return
    with pytest.raises(DataError, match=r"m\.pkl: expected a pickle of plain containers"):
        read_pickle(path)


def test_a_size_that_fills_pages_is_a_fault_of_its_mask(tmp_path: Path) -> None:
    root = LAYOUTS["ref_davis17"][1](tmp_path)
    masks = pickle.loads((root / "mask_dict.pkl").read_bytes())
    for at, size in enumerate(([10**5000, 1], [[10**5000]], 10**5000)):
        masks[str(at)][0] = {"size": size, "counts": "0"}
    (root / "mask_dict.pkl").write_bytes(pickle.dumps(masks))
    for at in range(3):
        with pytest.raises(DataError, match=r"\[0\]\.size: expected \[height, width\], found (list|int)"):
            load_tasks("ref_davis17", root)[at]
    assert load_tasks("ref_davis17", root)[3].gold


def test_a_pickle_that_grows_beyond_measure_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.pkl"
    shared = [None] * 200_000
    path.write_bytes(pickle.dumps({str(i): shared for i in range(2000)}))  # 400 million masks of 0.2 MB
    begin = time.monotonic()
    with pytest.raises(DataError, match=f"expected masks of at most {MAX_GROWTH} times its size"):
        convert_to_arrow(path)
    assert time.monotonic() - begin < 60 and not list(tmp_path.rglob("*.arrow"))
    few = rles(1)
    path.write_bytes(pickle.dumps({str(i): few for i in range(4)}))  # four annotators' sentences of one object
    assert convert_to_arrow(path).is_file()
    monkeypatch.setattr(safe_pickle, "MAX_VALUES", 20)
    with pytest.raises(DataError, match="more than 20 values"):
        read_pickle(path)


def test_every_instruction_of_pickle_is_known() -> None:
    """Each either makes a plain value or is refused: none is passed over."""
    machine_ignores = {"PROTO", "FRAME"}
    for instruction in pickletools.opcodes:
        machine = safe_pickle._Machine()
        machine.stack = [safe_pickle._MARK, [], {}, safe_pickle._MARK]
        before = list(machine.stack)
        try:
            machine.do(instruction.name, 0)
        except (ValueError, IndexError, KeyError, TypeError, AttributeError):
            continue
        assert instruction.name in machine_ignores or machine.stack != before or machine._kept, instruction.name


@pytest.mark.parametrize("tenth", range(10))
def test_a_damaged_table_of_masks_is_named(tenth: int, tmp_path: Path) -> None:
    root = LAYOUTS["mevis"][1](tmp_path)
    list(load_tasks("mevis", root))
    (table,) = (root / CACHE).iterdir()
    table.write_bytes(table.read_bytes()[: table.stat().st_size * tenth // 10])
    try:
        list(load_tasks("mevis", root))
    except DataError as error:
        assert str(table) in str(error) and "delete the file" in str(error)
    else:
        assert tenth == 9  # only the mark of the end is cut off
