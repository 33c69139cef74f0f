"""A start without --resume in the folder of an earlier run keeps all of its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.load import ConfigError
from policy import SHIPPED
from rl import grpo, sft_coldstart
from rl.demo import OWN
from rl.runtime.archive import set_aside
from tests.helpers.rl_parts import Micro


def test_earlier_files_are_kept(tmp_path: Path):
    (tmp_path / "data").mkdir()
    set_aside(tmp_path, ("stage-*", "policy"), SHIPPED)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    for run in (1, 2):
        (tmp_path / f"stage-{run}").mkdir()
        (tmp_path / "policy").write_text(str(run))
        set_aside(tmp_path, ("stage-*", "policy"), SHIPPED)
        assert sorted(path.name for path in (tmp_path / f"earlier-{run}").iterdir()) == ["policy", f"stage-{run}"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "earlier-1", "earlier-2"]
    assert (tmp_path / "earlier-1" / "policy").read_text() == "1"


@pytest.mark.parametrize(
    ("names", "mark"), [(grpo.WRITTEN, "config.yaml"), (sft_coldstart.WRITTEN, "config.yaml"), (OWN, "configs")]
)
def test_what_makes_a_run_one_to_resume_is_moved_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], mark: str
):
    """A start that is killed while it moves an earlier run away leaves none that a resume would take up."""
    for name in names:
        (tmp_path / name.replace("*", "1")).mkdir()
    moved = []
    real = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, to: (moved.append(path.name), real(path, to))[1])
    set_aside(tmp_path, names, SHIPPED)
    assert moved[0] == mark


def test_a_run_does_not_move_away_its_first_policy(tmp_path: Path):
    (tmp_path / "checkpoints/step-1/policy").mkdir(parents=True)
    with pytest.raises(ConfigError, match="give the new run a run_dir of its own"):
        set_aside(tmp_path, ("checkpoints",), tmp_path / "checkpoints/step-1/policy")
    set_aside(tmp_path, ("initial",), tmp_path / "checkpoints/step-1/policy")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_a_cold_start_sets_aside_all_that_it_writes(micro: Micro):
    written = {path.name for path in micro.policy.parent.iterdir()}
    assert written == {path.name for name in sft_coldstart.WRITTEN for path in micro.policy.parent.glob(name)}


def test_grpo_sets_aside_all_that_it_writes(micro: Micro, tmp_path: Path):
    config = micro.config(tmp_path, ["grpo.steps=1", "sampler.kind=hf"])
    grpo.train(config)
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {path.name for name in grpo.WRITTEN for path in tmp_path.glob(name)}
    grpo.train(config)
    assert {path.name for path in (tmp_path / "earlier-1").iterdir()} == written
    (new,) = tmp_path.glob("events.*")
    (old,) = (tmp_path / "earlier-1").glob("events.*")
    assert {path.name for path in tmp_path.iterdir()} == written - {old.name} | {new.name, "earlier-1"}
