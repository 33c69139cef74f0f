"""Mixtures of data sets: shares, distinct tasks, reproducibility; and their use in configs, GRPO and the cold start."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from configs.load import ConfigError, load_config
from configs.schema import SourceConfig
from cot_data.datasets import load_tasks
from cot_data.datasets.mixture import Mixture, epoch_length, epoch_order
from cot_data.datasets.training_sources import load_source
from cot_data.formats.rl_records import read_rl_records
from env.errors import DataError
from rl.rollout.task_stream import TaskStream
from tests.helpers import published_layouts
from tests.helpers.published_layouts import NAMES
from tests.helpers.rl_parts import MICRO, write_shapes

SIZES, WEIGHTS = (100, 20, 40), (1.0, 2.0, 1.0)


def sample(sizes: tuple[int, ...], weights: tuple[float, ...], seed: int, position: int) -> tuple[int, int]:
    """(set, item of the set) at a position of the stream of epochs."""
    epoch, at = divmod(position, epoch_length(sizes, weights))
    return epoch_order(sizes, weights, seed, epoch)[at]


def test_a_sample_is_a_pure_function_of_its_position() -> None:
    backwards = [sample(SIZES, WEIGHTS, 3, position) for position in reversed(range(400))]
    assert backwards[::-1] == [sample(SIZES, WEIGHTS, 3, position) for position in range(400)]
    assert backwards != [sample(SIZES, WEIGHTS, 4, position) for position in reversed(range(400))]


def test_shares_follow_the_weights_in_every_stretch() -> None:
    assert epoch_length(SIZES, WEIGHTS) == 160
    sampled = [sample(SIZES, WEIGHTS, 0, position) for position in range(160)]
    for start in range(0, 160, 16):
        counts = Counter(number for number, _ in sampled[start : start + 16])
        assert all(abs(counts[number] - share) <= 1 for number, share in ((0, 4), (1, 8), (2, 4)))


def test_a_small_data_set_is_used_up_before_it_repeats() -> None:
    sampled = [sample(SIZES, WEIGHTS, 0, position) for position in range(160)]
    small, large = ([item for number, item in sampled if number == which] for which in (1, 0))
    assert set(Counter(small).values()) == {4}
    assert all(len(set(small[at : at + 20])) == 20 for at in range(61))
    assert len(large) == len(set(large)) == 40, "a data set larger than its number of samples gives no task twice"


def test_the_order_of_a_run_stays_that_of_earlier_versions() -> None:
    """A resumed run goes on at its position, so the task at a position must never change."""
    assert epoch_order((3, 4), (1.0, 2.0), 0, 1) == ((1, 1), (1, 3), (0, 2), (1, 0), (1, 2), (0, 0), (1, 1))
    assert epoch_length((3, 4), (1.0, 2.0)) == 7, "shares are rounded to the nearest number"


def mixture(tmp_path: Path) -> Mixture:
    first = load_tasks("revos", published_layouts.revos(tmp_path))
    return Mixture([first, load_tasks("ref_sav", published_layouts.ref_sav(tmp_path))], [3.0, 1.0])


def test_a_step_takes_different_tasks_of_all_data_sets(tmp_path: Path) -> None:
    tasks = mixture(tmp_path)
    assert [outline.task_id.split("/")[0] for outline in tasks.outlines] == ["valid"] * 3 + ["ref_sav_eval"] * 2
    stream = TaskStream(tasks, 2, 0)
    steps = [stream.take(2, 2 * step)[0] for step in range(8)]
    assert all(len({task.task_id for task in step}) == 2 for step in steps)
    assert steps[5] == stream.take(2, 10)[0]
    with pytest.raises(ValueError, match=r"do not give grpo\.tasks_per_step 6 different ones"):
        tasks.places_for_step(6, 0, 0)


def test_task_ids_must_be_distinct(tmp_path: Path) -> None:
    tasks = load_tasks("revos", published_layouts.revos(tmp_path))
    with pytest.raises(DataError, match=r"data\.train\.1: task valid/.*/0 is also in data\.train\.0"):
        Mixture([tasks, tasks], [1.0, 1.0])
    with pytest.raises(DataError, match=r"data\.train\.1: expected a data set with tasks"):
        Mixture([tasks, tasks[:0]], [1.0, 1.0])


def test_a_config_names_several_roots() -> None:
    config = load_config("tiny", ["data.train=[{dataset: revos, root: /a/train, weight: 2}, {root: /b/train}]"])
    assert config.data.train == (SourceConfig("revos", "/a/train", 2.0), SourceConfig("mevis", "/b/train"))
    assert load_config("tiny", ["data.train=[{root: /a}]", "data.train.0.weight=0.5"]).data.train[0].weight == 0.5
    for override, message in (
        ("data.train=[{root: /a, weight: 0}]", "data.train.0.weight: expected > 0"),
        ("data.train=[{dataset: revos}]", "data.train.0.root: expected a folder"),
        ("data={train: [{root: /a}], traces: t.json}", "data.traces: expected nothing beside data.train"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config("tiny", [override])


def test_cold_start_data_comes_from_all_roots(tmp_path: Path) -> None:
    from rl.sft.data import SftDataset

    roots = [write_shapes(tmp_path / name, videos=1, seed=seed) for name, seed in (("a", 3), ("b", 4))]
    sets = f"data.train=[{{root: {roots[0]}, weight: 3}}, {{root: {roots[1]}}}]"
    dataset = SftDataset(load_config("smoke", [*MICRO, sets]))
    sizes = [len(part) for part in dataset.parts]
    assert len(dataset) == sum(sizes)
    counts = Counter(dataset[row][1].task_id.split("/")[0] for row in range(len(dataset)))
    assert counts["a"] == round(0.75 * sum(sizes))
    assert dataset.dialogue(0).turns and dataset.text_only(0).turns and dataset.corpus()


def rl_row(**changes: object) -> dict[str, object]:
    row = {"video_name": "clip", "frames": NAMES, "exp": "what moves left", "anno_id": [8]}
    return row | {"mask_existence": [1, 1, 1, 0], "exp_id": "10", "obj_id": [2]} | changes


def test_the_rl_file_of_the_release_selects_tasks(tmp_path: Path) -> None:
    root = published_layouts.mevis(tmp_path)
    file = tmp_path / "rl_mevis_data.json"
    file.write_text(json.dumps([[rl_row(), {"ignored": True}], [rl_row()]]))
    (record, _) = read_rl_records(file)
    assert record.mask_existence == (True, True, True, False)
    tasks = load_source(SourceConfig("mevis", str(root), only=str(file)))
    assert [task.task_id for task in tasks] == ["train/clip/10"]
    assert [mask is not None for mask in tasks[0].gold] == list(record.mask_existence)


def test_of_equal_sentences_the_first_task_is_taken_where_no_id_is_given(tmp_path: Path) -> None:
    root = published_layouts.mevis(tmp_path)
    meta = json.loads((root / "meta_expressions.json").read_text())
    expressions = meta["videos"]["clip"]["expressions"]
    expressions["3"] = expressions["10"]
    (root / "meta_expressions.json").write_text(json.dumps(meta))
    row = rl_row()
    del row["exp_id"]
    for rows, task_id in (([row], "train/clip/10"), ([rl_row(exp_id="3")], "train/clip/3")):
        (tmp_path / "rl.json").write_text(json.dumps([rows]))
        (task,) = load_source(SourceConfig("mevis", str(root), only=str(tmp_path / "rl.json")))
        assert task.task_id == task_id


def test_a_record_matches_a_task_whose_number_of_frames_is_not_known(tmp_path: Path) -> None:
    root = published_layouts.groundmore(tmp_path)
    frames = [f"frame_{i:06d}" for i in range(12)]
    row = rl_row(video_name="match_0010_0012", exp_id="0", exp="Who stays?", frames=frames, mask_existence=[1] * 12)
    (tmp_path / "rl.json").write_text(json.dumps([[row]]))
    (task,) = load_source(SourceConfig("groundmore", str(root), only=str(tmp_path / "rl.json")))
    assert task.expression == "Who stays?"


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({}, "expected a list of lists"),
        ([rl_row()], "record 0: expected a list of at least one record"),
        ([[]], "record 0: expected a list of at least one record"),
        ([[rl_row(mask_existence=[1])]], r"record 0\.mask_existence: expected 0 or 1 for each of 4 frames"),
        ([[rl_row(mask_existence=[1, 1, 1, 2])]], r"record 0\.mask_existence"),
        ([[rl_row(frames=[0])]], r"record 0\.frames\[0\]: expected a string"),
        ([[rl_row(exp=None)]], r"record 0\.exp: expected str"),
    ],
)
def test_errors_name_damaged_rl_files(groups: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "rl.json").write_text(json.dumps(groups))
    with pytest.raises(DataError, match=message):
        read_rl_records(tmp_path / "rl.json")
