"""A resume with other settings or other data is refused or recorded, never taken in silence."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from configs.load import config_text, config_to_dict, load_config
from configs.schema import RunConfig, SourceConfig, StageConfig
from cot_data.datasets import load_tasks
from env.errors import CheckpointError
from env.store import TrajectoryStore
from env.types import Trajectory
from rl.runtime.data_identity import check_trained_tasks, data_changes, data_identity
from rl.runtime.resume import check_resume, record_resume, write_start
from rl.runtime.resume_rules import COLD_START, EVALUATION, FIXED, FREE, GRPO, RECORDED, RULES, changes, flat, pattern
from tests.helpers.rl_parts import Micro, read_lines, write_shapes

ROOT = Path(__file__).parents[3]
EVERY_SECTION = replace(
    RunConfig(), data=replace(RunConfig().data, train=(SourceConfig(root="a"),)), rewards={"format": 1.0}
)


def test_every_setting_has_a_rule_and_every_rule_a_setting():
    keys = {pattern(key) for key in flat(config_to_dict(EVERY_SECTION))}
    assert keys == set(RULES)
    assert all(len(row) == 3 and set(row) <= {FREE, RECORDED, FIXED} for row in RULES.values())


def test_the_docs_name_every_setting_that_may_change():
    page = (ROOT / "docs" / "train.md").read_text().partition("## Resume")[2].partition("\n## ")[0]
    recorded, free = (
        set(re.findall(r"`([a-z_.]+)`", page.partition(name)[2].partition("\n* ")[0]))
        for name in ("*Recorded*", "*Free*")
    )
    assert recorded and free and not recorded & free
    for key, row in RULES.items():
        name = "lr" if key == "cold_start.stages.*.lr" else key
        assert (name in recorded) == (RECORDED in row), key
        is_free = row == (FREE, FREE, FREE) and not key.startswith("data.")  # "paths of the data"
        assert (key in free) == is_free, key


def test_other_values_are_sorted_by_what_they_mean():
    old = load_config("smoke")
    new = load_config("smoke", ["grpo.group_size=4", "grpo.lr=1e-3", "grpo.workers=2", "rewards.format=2", "seed=3"])
    found = changes(old, new, GRPO)
    assert [change.key for change in found[FIXED]] == ["seed", "grpo.group_size", "rewards.format"]
    assert [str(change) for change in found[RECORDED]] == ["grpo.lr was 0.0005 and is 0.001 now"]
    assert [change.key for change in found[FREE]] == ["grpo.workers"]
    assert [change.key for change in changes(old, new, COLD_START)[FIXED]] == ["seed"]
    assert changes(old, old, GRPO) == {FREE: [], RECORDED: [], FIXED: []}


@pytest.mark.parametrize("override", ["rewards={format: 1}", "data.train=[{root: a}, {root: b}]", "env.max_turns=5"])
def test_what_is_added_or_taken_away_is_a_change_too(override: str):
    old, new = load_config("smoke"), load_config("smoke", [override])
    assert changes(old, new, GRPO)[FIXED] and changes(new, old, GRPO)[FIXED]
    more = replace(old, cold_start=replace(old.cold_start, stages=(*old.cold_start.stages, StageConfig())))
    assert changes(old, more, COLD_START)[FIXED] and not changes(old, more, GRPO)[FIXED]


def identity_of(root: Path, traces: Path | None = None) -> dict[str, dict[str, Any]]:
    source = SourceConfig(root=str(root), traces=str(traces or ""))
    return data_identity([source], [load_tasks("mevis", root)])


def test_other_tasks_are_fixed_and_other_masks_recorded(tmp_path: Path):
    data = write_shapes(tmp_path / "data")
    whole = identity_of(data)
    assert data_changes(whole, identity_of(data)) == {FIXED: [], RECORDED: []}
    moved = shutil.copytree(data, tmp_path / "elsewhere" / "data")
    assert identity_of(moved) == whole, "where the data lie does not matter"
    masks = json.loads((data / "mask_dict.json").read_text())
    next(iter(masks.values()))[0] = None
    (data / "mask_dict.json").write_text(json.dumps(masks))
    found = data_changes(whole, identity_of(data))
    assert not found[FIXED] and [change.key for change in found[RECORDED]] == ["data.train.0, mask_dict.json"]
    meta = json.loads((data / "meta_expressions.json").read_text())
    expressions = next(iter(meta["videos"].values()))["expressions"]
    del expressions[next(iter(expressions))]
    (data / "meta_expressions.json").write_text(json.dumps(meta))
    found = data_changes(whole, identity_of(data))
    assert [change.key for change in found[FIXED]] == ["data.train.0, tasks", "data.train.0, outlines"]


def test_a_trained_task_with_other_masks_is_refused_and_a_repaired_one_is_not(tmp_path: Path):
    data, store = write_shapes(tmp_path / "data"), TrajectoryStore(tmp_path / "trajectories")
    tasks = load_tasks("mevis", data)
    trained, repaired = (next(at for at, task in enumerate(tasks) if task.gold and task.gold != tasks[0].gold), 0)
    store.append([Trajectory("0/a/0", tasks[trained], 0, 0)])
    check_trained_tasks(store, [load_tasks("mevis", shutil.move(data, tmp_path / "moved" / "data"))])
    data, masks_file = tmp_path / "moved" / "data", tmp_path / "moved" / "data" / "mask_dict.json"
    assert repaired != trained
    masks = json.loads(masks_file.read_text())
    meta = json.loads((data / "meta_expressions.json").read_text())["videos"]
    ids = [expression["anno_id"] for video in meta.values() for expression in video["expressions"].values()]
    for at, is_refused in ((repaired, False), (trained, True)):
        for anno_id in ids[at]:
            masks[str(anno_id)] = [None] * len(masks[str(anno_id)])
        masks_file.write_text(json.dumps(masks))
        if is_refused:
            with pytest.raises(CheckpointError, match=r"has trained on task .*, which has other frames or masks now"):
                check_trained_tasks(TrajectoryStore(store.folder), [load_tasks("mevis", data)])
        else:
            check_trained_tasks(TrajectoryStore(store.folder), [load_tasks("mevis", data)])


def test_other_traces_are_fixed(tmp_path: Path):
    data, traces = write_shapes(tmp_path / "data"), tmp_path / "traces.json"
    traces.write_text("[]")
    before = identity_of(data, traces)
    traces.write_text("[ ]")
    assert [each.key for each in data_changes(before, identity_of(data, traces))[FIXED]] == ["data.train.0, traces"]


def test_a_resume_is_refused_or_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = load_config("smoke", [f"run_dir={tmp_path}"])
    write_start(tmp_path, config, {})
    with pytest.raises(CheckpointError, match=r"grpo\.group_size was 2 and is 4 now; give the former ones, or start a"):
        check_resume(tmp_path, load_config("smoke", ["grpo.group_size=4"]), GRPO, {})
    faster = load_config("smoke", [f"run_dir={tmp_path}", "grpo.lr=0.01", "grpo.workers=2"])
    found = check_resume(tmp_path, faster, GRPO, {})
    record_resume(tmp_path, faster, {}, found, "step 4")
    assert "from step 4 on: grpo.lr was 0.0005 and is 0.01 now" in capsys.readouterr().out
    rows = read_lines(tmp_path / "changes.jsonl")
    assert rows == [{"at": "step 4", "key": "grpo.lr", "was": 0.0005, "now": 0.01}]
    assert load_config(tmp_path / "config.yaml") == faster
    assert check_resume(tmp_path, faster, GRPO, {}) == []


@pytest.mark.parametrize("content", ["grpo: [", "grpo: {stepz: 1}", "\x00\x01", "- a\n- b\n"])
def test_a_damaged_config_is_one_sentence(tmp_path: Path, content: str):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.yaml: .*; put back the file") as raised:
        check_resume(tmp_path, load_config("smoke"), GRPO, {})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"data.train.0": 3}', b'{"a": {}, "a": {}}', b"\xff"])
def test_a_damaged_identity_of_the_data_is_one_sentence(tmp_path: Path, content: bytes):
    (tmp_path / "config.yaml").write_text(config_text(load_config("smoke")))
    (tmp_path / "data.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"data\.json: cannot be read \(.*\); remove it"):
        check_resume(tmp_path, load_config("smoke"), GRPO, {})


def test_an_older_run_without_an_identity_goes_on(tmp_path: Path):
    (tmp_path / "config.yaml").write_text(config_text(load_config("smoke")))
    assert check_resume(tmp_path, load_config("smoke"), GRPO, {"data.train.0": {"tasks": 3}}) == []


def test_an_evaluation_depends_on_its_fixed_settings_and_no_others(micro: Micro, tmp_path: Path):
    """The identity that `evaluation.json` holds, against the column of the table, setting by setting."""
    from rl.evaluation import identity

    config = micro.config(tmp_path)
    before = identity._compared(identity._identity(config, micro.policy))
    for key, row in RULES.items():
        if key.startswith(("data.", "cold_start.", "rewards.")) or key in ("policy.kind", "eval.num_tasks"):
            continue  # the tasks are hashed; the family is that of the checkpoint
        after = identity._compared(identity._identity(other(config, key.split(".")), micro.policy))
        assert (before != after) == (row[EVALUATION] == FIXED), key


def other(section: Any, keys: list[str]) -> Any:
    """Return a copy of a config with another value of one key."""
    name, *rest = keys
    assert is_dataclass(section) and not isinstance(section, type) and name in {each.name for each in fields(section)}
    value = getattr(section, name)
    if rest:
        return replace(section, **{name: other(value, rest)})
    if isinstance(value, bool):
        return replace(section, **{name: not value})
    if isinstance(value, int | float):
        return replace(section, **{name: value + 1})
    return replace(section, **{name: (*value, "x") if isinstance(value, tuple) else f"{value}x"})
