"""The metrics of a run: TensorBoard reads them, a full disk leaves both files as they were, bad lines are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from env.errors import DataError, MachineError
from rl.runtime.journal import Journal, read_metrics
from tests.helpers.full_disk import no_file_longer_than


def test_tensorboard_reads_what_was_logged(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    journal = Journal(tmp_path)
    for step in range(3):
        journal.log(step, {"loss/policy": step / 4, "reward/total/mean": -1.5})
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert sorted(board.Tags()["scalars"]) == ["loss/policy", "reward/total/mean"]
    assert [(each.step, each.value) for each in board.Scalars("loss/policy")] == [(0, 0.0), (1, 0.25), (2, 0.5)]


@pytest.mark.parametrize("room", [0, 10, 60])
def test_a_full_disk_leaves_both_files_as_they_were(tmp_path: Path, room: int):
    journal = Journal(tmp_path)
    journal.log(0, {"loss": 1.0})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with (
        no_file_longer_than(min(map(len, before.values())) + room),
        pytest.raises(MachineError, match=r"(metrics\.jsonl|tfevents\S+): cannot be written \(File too large\)"),
    ):
        journal.log(1, {"loss": 2.0, "more": 3.0})
    for path, content in before.items():
        whole = path.read_bytes()
        assert whole == content or (whole.startswith(content) and whole.endswith(b"}\n")), path
    journal.drop_from(1)
    journal.log(1, {"loss": 2.0})
    assert [row["loss"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1.0, 2.0]


@pytest.mark.parametrize("line", ["", "{", "[1]", '{"loss": 1}', '{"step": "a"}', '{"step": 1, "step": 2}', "NaN"])
def test_a_bad_line_in_the_middle_is_named(tmp_path: Path, line: str):
    journal = Journal(tmp_path)
    journal.log(0, {"loss": 1.0})
    with journal.path.open("a") as file:
        file.write(f'{line}\n{{"step": 2}}\n')
    for read in (lambda: read_metrics(journal.path), lambda: journal.drop_from(5)):
        with pytest.raises(DataError, match=r"metrics\.jsonl:2: expected .* step.*; remove the line"):
            read()


def test_a_torn_last_line_is_left_out(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.log(0, {"loss": 1.0})
    with journal.path.open("a") as file:
        file.write('{"step": 1, "lo')
    with pytest.warns(UserWarning, match="unfinished last line"):
        assert [row["step"] for row in read_metrics(journal.path)] == [0]
    journal.log(1, {"loss": 2.0})
    assert [row["step"] for row in read_metrics(journal.path)] == [0, 1]
