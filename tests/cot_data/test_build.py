"""`cot_data.build` on Moving Shapes and real clips; resuming after a kill; tasks left out; the order of images."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cot_data.build
from configs.schema import EnvConfig
from cot_data.build import BuildOptions, build, main
from cot_data.clips import convert_clips
from cot_data.datasets import load_tasks
from cot_data.datasets.matching import match
from cot_data.formats.vts_cot import read_records
from cot_data.traces.build_journal import BuildJournal, Built
from cot_data.traces.dialogue import to_trajectory
from cot_data.traces.teacher import Teacher
from env.errors import DataError
from env.types import FrameRef, Observation, Select, VideoRef
from policy.vlm.batch import collate, to_sequence
from policy.vlm.chat_tokens import ChatTokens
from policy.vlm.patches import PatchLayout
from policy.vlm.tokenizer import train_tokenizer
from tests.cot_data.traces.test_teacher import chat as completion
from tests.cot_data.traces.test_teacher import endpoint

CONFIG = EnvConfig()


def build_traces(root: Path, out: Path, limit: int = 0, teacher: Teacher | None = None) -> list[Built]:
    return build(load_tasks("mevis", root), out, BuildOptions(CONFIG, 0, limit, teacher, {"root": str(root)}))


def test_traces_of_moving_shapes_are_valid_and_explore(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "traces.json"
    done = build_traces(shapes, out, limit=40)
    records, tasks = read_records(out), load_tasks("mevis", shapes)[:40]
    assert (
        len(done) == len(records) == 40 and not list(tmp_path.glob("*left_out*")) and len(list(tmp_path.iterdir())) == 1
    )
    assert match(records, tasks.outlines, str(out)) == list(range(40))
    assert {record.round_num for record in records} == {1, 2, 3}
    words = [len(turn.split()) for record in records for turn in record.gpt_turns]
    assert max(words) < 300
    for record, task in zip(records, tasks, strict=True):
        trajectory = to_trajectory(record, task, CONFIG)
        if task.explore:  # the first zoom is on the evidence
            zoom = trajectory.turns[0].decision
            assert isinstance(zoom, Select) and zoom.key_frame in task.evidence
        for turn in trajectory.turns[:-1]:  # from coarse to fine
            assert isinstance(turn.decision, Select) and len(turn.decision.interval) < task.video.num_frames / 2


def test_each_task_has_random_numbers_of_its_own(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are a function of seed and task, so that a build that is continued makes the same choices."""
    seen = []

    def record(scene: Any, config: EnvConfig, rng: np.random.Generator) -> None:
        seen.append(rng.random())
        raise LookupError

    monkeypatch.setattr(cot_data.build, "prose_turns", record)
    entry = load_tasks("mevis", shapes).entries[0]
    for row in range(3):
        with pytest.raises(LookupError):
            cot_data.build._draft(entry, {row: entry.task()}, row, CONFIG, 5)
    assert seen == [np.random.default_rng([5, row]).random() for row in range(3)]


@pytest.mark.parametrize("frames", [(4, 1, 2), (2, 0, 1), (16, 8, 8)])
def test_traces_are_valid_with_few_frames_and_with_many(
    shapes: Path, tmp_path: Path, frames: tuple[int, int, int]
) -> None:
    strip, detail, zoom = frames
    config = EnvConfig(strip_frames=strip, detail_frames=detail, zoom_frames=zoom)
    done = build(load_tasks("mevis", shapes), tmp_path / "t.json", BuildOptions(config, limit=25))
    assert [built.left_out for built in done] == [()] * 25


def test_traces_of_real_clips_are_valid(clips: Path, tmp_path: Path) -> None:
    convert_clips(clips, tmp_path / "clips")
    build_traces(tmp_path / "clips", tmp_path / "out" / "traces.json")
    records = {(record.video_name, record.exp_id): record for record in read_records(tmp_path / "out" / "traces.json")}
    assert len(records) == 8
    dog = records["dogs-jump", "0"]
    assert dog.anno_id == (4,) and dog.sample_frame_indice == (0, 16, 33, 49, 65)  # the fifth object of all clips
    for name in ("the white dog with black patches", "the white dog with grey patches", "the woman"):
        assert name in dog.gpt_turns[0].lower()
    assert 'The query says "white dog" and "with black patches".' in dog.gpt_turns[0]
    assert "The white dog with grey patches is of the same kind." in dog.gpt_turns[0]
    assert "moves to the left from frame 0 to frame 39" in records["car-shadow", "0"].gpt_turns[0]


class Killed(Exception):
    pass


def test_a_resumed_build_gives_the_same_file(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, out = tmp_path / "whole.json", tmp_path / "out.json"
    build_traces(shapes, whole, limit=20)
    add = BuildJournal.add

    def killed_at_10(journal: BuildJournal, built: Built) -> None:
        if len(journal.done) == 10:
            raise Killed
        add(journal, built)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(BuildJournal, "add", killed_at_10)
        build_traces(shapes, out, limit=20)
    journal = tmp_path / "out.json.partial.jsonl"
    assert not out.exists() and len(journal.read_text().splitlines()) == 11
    journal.write_text(journal.read_text() + '{"task_id": "half a li')  # as a kill leaves it
    with pytest.raises(
        DataError, match=r"started with limit 20 \(now 19\); finish it with the same settings, or delete"
    ):
        build_traces(shapes, out, limit=19)
    build_traces(shapes, out, limit=20)
    assert out.read_bytes() == whole.read_bytes() and not journal.exists()


def test_an_error_names_a_broken_journal(tmp_path: Path, shapes: Path) -> None:
    (tmp_path / "out.json.partial.jsonl").write_text("hello\n")
    with pytest.raises(DataError, match=r"partial\.jsonl: line 1: expected JSON"):
        build_traces(shapes, tmp_path / "out.json", limit=1)


def test_a_task_without_a_valid_trace_is_left_out_with_the_reason(shapes: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    meta = json.loads((shapes / "meta_expressions.json").read_text())
    name, video = next(iter(meta["videos"].items()))
    shutil.copytree(shapes / "JPEGImages" / name, root / "JPEGImages" / name)
    first, second, *_ = video["expressions"]
    video["expressions"] = {key: video["expressions"][key] for key in (first, second)}
    del video["expressions"][first]["anno_id"]
    video["expressions"][second]["anno_id"] = [987654]
    (root / "meta_expressions.json").write_text(json.dumps({"videos": {name: video}}))
    (root / "mask_dict.json").write_bytes((shapes / "mask_dict.json").read_bytes())
    build_traces(root, tmp_path / "traces.json")
    assert read_records(tmp_path / "traces.json") == []
    rows = json.loads((tmp_path / "traces.left_out.json").read_text())
    assert rows[0] == {"task_id": f"set/{name}/{first}", "reasons": ["its gold masks are unknown"]}
    assert "no masks under '987654'" in rows[1]["reasons"][0]


def test_the_command_resumes_after_its_teacher_failed(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every trace is reworded once; those reworded before the failure are not requested again."""
    out, asked = tmp_path / "traces.json", []

    def tutor(body: dict[str, Any]) -> tuple[int, str, float]:
        asked.append(body["messages"][-1]["content"])
        if len(asked) == 11:
            return 400, "out of memory", 0.0
        return 200, completion(body["messages"][1]["content"].partition("\n")[2].replace("So «", "Hence «"), 500), 0.0

    monkeypatch.setattr("cot_data.build.CONCURRENT_REQUESTS", 1)
    with endpoint(tutor) as (url, _):
        words = ["build", str(shapes), "--out", str(out), "--limit", "16", "--teacher", url, "--teacher-model", "tutor"]
        monkeypatch.setattr(sys, "argv", [*words, "--config", "videoseg_o3/2b_cold_start"])
        with pytest.raises(SystemExit, match="refused the request: status 400"):
            main()
        main()
    assert len(asked) == 17, "ten, the failed one, and six"
    printed = capsys.readouterr().out
    assert "16 valid traces of 16 tasks" in printed and "reworded by tutor: 16; 8000 tokens" in printed
    assert any("Hence the query means" in turn for record in read_records(out) for turn in record.gpt_turns)


def test_traces_beyond_the_cap_keep_their_wording(shapes: Path, tmp_path: Path) -> None:
    with endpoint(lambda body: (500, "", 0.0)) as (url, requests):
        teacher = Teacher(url, "tutor", max_tokens=100)
        done = build_traces(shapes, tmp_path / "traces.json", limit=3, teacher=teacher)
    assert requests == [] and {built.words_by for built in done} == {"template"}
    assert all(built.rejected == ("the cap on tokens is reached",) for built in done)


# The order of images


class Numbered:
    """Frames whose every pixel is their index, times six."""

    def pixels(self, video: VideoRef, frame: FrameRef) -> np.ndarray:
        return np.full((frame.height, frame.width, 3), 6 * frame.frame_idx, np.uint8)

    def full(self, video: VideoRef, frame_idx: int) -> np.ndarray:
        raise NotImplementedError


def indices_in_text(observation: Observation) -> list[int]:
    """The frame indices in an observation's text, in its order; each list follows its frames."""
    found: list[int] = []
    for part in observation.parts:
        if isinstance(part, str):
            for listed, key in re.findall(r"frame indices \[([\d, ]*)\]|Key frame (\d+), large", part):
                found += [int(digits) for digits in re.findall(r"\d+", listed or key)]
    return found


def test_images_are_trained_in_the_order_of_the_text(shapes: Path, tmp_path: Path) -> None:
    """The released code puts the pixels of large frames before those of small ones, unlike its text."""
    config = replace(CONFIG, size_factor=16, strip_pixels=256, detail_pixels=1024, zoom_pixels=256, key_pixels=4096)
    build(load_tasks("mevis", shapes), tmp_path / "t.json", BuildOptions(config, limit=12))
    tasks, records = load_tasks("mevis", shapes)[:12], read_records(tmp_path / "t.json")
    items = [to_trajectory(record, task, config) for record, task in zip(records, tasks, strict=True)]
    tokens, layout = (
        ChatTokens(train_tokenizer([turn.action.text for turn in items[0].turns], 700)),
        PatchLayout(8, 2, 2),
    )
    sequences = [to_sequence(item, tokens, layout) for item in items]
    batch = collate(sequences, tokens, layout, Numbered(), torch.device("cpu"))
    assert batch.pixel_values is not None and batch.image_grid_thw is not None
    counts = batch.image_grid_thw.prod(1).tolist()
    means = [patches.mean().item() for patches in batch.pixel_values.split(counts)]
    seen = [round((127.5 * mean + 127.5) / 6) for mean in means]
    in_text = [indices_in_text(turn.observation) for item in items for turn in item.turns]
    assert seen == [t for indices in in_text for t in indices]
    assert max(len(item.turns) for item in items) == 3
    pads = (batch.input_ids_BL == tokens.image_pad_id).sum().item()
    assert pads == sum(counts) // 4, "one token for two by two patches, so that each frame fills its own tokens"
    sizes = [frame.width * frame.height for turn in items[0].turns for frame in turn.observation.frames]
    assert [grid.prod().item() * 64 for grid in batch.image_grid_thw[: len(sizes)]] == sizes
