"""Ids of videos, expressions and frames: none leads out of a folder, and no two tasks share an id."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cot_data import datasets
from cot_data.datasets import DATASETS, load_tasks
from cot_data.tasks import Entry, Outline, Tasks
from env.errors import DataError
from rl.benchmarks.expression_scores import missing
from rl.benchmarks.predictions import open_predictions
from rl.benchmarks.protocols import BENCHMARKS
from rl.benchmarks.submission import write_submission
from tests.helpers.data_faults import faults_of
from tests.helpers.published_layouts import LAYOUTS

BAD_IDS = ["../../x", "..", "a/b", "", "/etc", "x\ny", "\x1b[2J", "a\\b"]
EXPRESSION_FILES = ("mevis", "mevis test", "ref_youtube_vos", "ref_davis17", "revos", "long_rvos", "ref_sav")


def rewrite(root: Path, folder: Path, change: Callable[[Any], None]) -> None:
    """Change the metadata of a data set below `folder`, the file in which videos have expressions or questions."""
    for path in folder.rglob("*.json"):
        made = json.loads(path.read_text())
        if isinstance(made, dict) and "videos" in made and (path.parent.name in (root.name, "", root.parent.name)
                                                            or path.is_relative_to(root)
                                                            or root.name in path.name):  # fmt: skip
            change(made["videos"])
            path.write_text(json.dumps(made))


@pytest.mark.parametrize("exp_id", BAD_IDS)
@pytest.mark.parametrize("layout", [*EXPRESSION_FILES, "groundmore"])
def test_an_expression_id_that_is_no_name_is_refused(layout: str, exp_id: str, tmp_path: Path) -> None:
    name, write = LAYOUTS[layout]
    root = write(tmp_path)

    def rename(videos: dict[str, Any]) -> None:
        for video in videos.values():
            records = video.get("expressions", video.get("questions"))
            records[exp_id] = records.pop(next(iter(records)))

    rewrite(root, tmp_path, rename)
    with pytest.raises(DataError, match=r"(expressions|questions)\[.*: (the path|expected)"):
        load_tasks(name, root)
    faults = faults_of(name, root)
    assert faults and all("\x1b" not in str(fault) and "\n" not in str(fault) for fault in faults)


@pytest.mark.parametrize("video", ["a//b", "./a", "a/", "a\tb", "\x1b[31m", "\u202ea"])
def test_a_video_name_is_written_in_one_way_only(video: str, tmp_path: Path) -> None:
    root = LAYOUTS["mevis test"][1](tmp_path)
    meta = root / "meta_expressions_release.json"
    made = json.loads(meta.read_text())
    made["videos"] = {video: made["videos"]["clip"]}
    meta.write_text(json.dumps(made))
    with pytest.raises(DataError, match="expected a name without"):
        load_tasks("mevis", root)


def test_two_tasks_never_share_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = LAYOUTS["mevis test"][1](tmp_path)
    (entry,) = load_tasks("mevis", root).entries

    def load(root: Path, faults: Any) -> Tasks:
        ids = ("s/a/b/0", "s/a/b/1", "s/a/b/0", "s/../0")
        return Tasks([replace(entry, outline=Outline(each, "it"), where=f"record {i}") for i, each in enumerate(ids)])

    monkeypatch.setitem(datasets.DATASETS, "mine", load)
    with pytest.raises(DataError, match="record 2: its id 's/a/b/0' is also that of record 0; rename one of them"):
        load_tasks("mine", root)
    assert [fault.where for fault in faults_of("mine", root)] == ["record 2", "record 3"]


def test_frames_whose_names_are_no_names_are_refused(tmp_path: Path) -> None:
    root = LAYOUTS["mevis test"][1](tmp_path)
    entry = load_tasks("mevis", root).entries[0]
    video = replace(entry.footage.ref(), frames=("00000", "a\n", "b", "c"))

    class Frames:
        def ref(self, faults: Any = None) -> Any:
            return video

    assert entry.task().video.frames[0] == "00000"
    with pytest.raises(DataError, match=r"frame 'a\\n': expected a name without control characters"):
        Entry(entry.outline, Frames(), None, entry.where).task()  # type: ignore[arg-type]


def test_no_entry_of_an_archive_and_no_prediction_leads_out(tmp_path: Path) -> None:
    task = load_tasks("mevis", LAYOUTS["mevis test"][1](tmp_path))[0]
    (tmp_path / "predictions").mkdir()
    predictions = open_predictions(tmp_path / "predictions")
    for task_id in ("test/clip/..", "test/../../0", "test//0", "test/clip/\x1b"):
        bad = replace(task, task_id=task_id)
        with pytest.raises(DataError):
            write_submission(BENCHMARKS["mevis"], [(bad, missing(bad))], tmp_path / "out.zip")
        with pytest.raises(DataError):
            predictions.of(bad)
    write_submission(BENCHMARKS["mevis"], [(task, missing(task))], tmp_path / "out.zip")
    assert all(
        ".." not in name and not name.startswith("/") for name in zipfile.ZipFile(tmp_path / "out.zip").namelist()
    )


def test_every_layout_passes_the_check_of_ids() -> None:
    assert {name for name, _ in LAYOUTS.values()} == set(DATASETS)
