"""The demo's bookkeeping: what is there is kept, what is done is skipped, what fails stops it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from configs.load import load_config
from configs.schema import RunConfig
from cot_data.moving_shapes.generate import write_moving_shapes
from env.errors import CheckpointError, DataError
from env.files import write_text
from policy import SHIPPED
from rl.demo import data_stages, grpo_stages, has_data, main, prepare, with_resume
from rl.runtime.memory import MemoryWatch
from rl.runtime.phases import Phase, PhaseCost, PhaseLog, run_phase


def config_in(folder: Path) -> RunConfig:
    sets = [f"run_dir={folder}/run", f"data.train_root={folder}/train", f"data.eval_root={folder}/heldout"]
    return load_config("smoke", sets)


def test_a_split_is_written_once(tmp_path):
    config = config_in(tmp_path)
    assert [stage.key for stage in data_stages(config, 2, 1)] == ["data_train", "data_heldout"]
    write_moving_shapes(tmp_path / "train", 2, seed=1)
    assert [stage.key for stage in data_stages(config, 2, 1)] == ["data_heldout"]
    (tmp_path / "train" / "moving_shapes.json").unlink()
    assert has_data(tmp_path / "train", 5, seed=9), "a data set of the user's own is taken as it is"


@pytest.mark.parametrize("written", [(), ("mask_dict.json",), ("mask_dict.json", "moving_shapes.json")])
def test_a_split_whose_generation_was_killed_is_made_again(tmp_path, written):
    """The files in the order in which the generator writes them."""
    write_moving_shapes(tmp_path / "train", 2, seed=1)
    for name in ("mask_dict.json", "moving_shapes.json", "meta_expressions.json"):
        if name not in written:
            (tmp_path / "train" / name).unlink()
    assert not has_data(tmp_path / "train", 2, seed=1)
    write_moving_shapes(tmp_path / "train", 2, seed=1)
    assert has_data(tmp_path / "train", 2, seed=1)


def test_the_generator_writes_last_what_makes_a_data_set(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr("cot_data.moving_shapes.generate.write_text", lambda path, text: names.append(path.name))
    write_moving_shapes(tmp_path, 1, seed=1)
    assert names == ["mask_dict.json", "moving_shapes.json", "meta_expressions.json"]


def test_a_demo_that_was_killed_while_it_began_is_begun_anew(tmp_path, monkeypatch):
    config = config_in(tmp_path)
    run_dir, written = Path(config.run_dir), []

    def killed_at(path: Path, text: str) -> None:
        if len(written) == at:
            raise KeyboardInterrupt
        written.append(path.name)
        write_text(path, text)

    for at in range(9):
        written.clear()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("rl.demo.write_text", killed_at)
            prepare(config, run_dir, SHIPPED, resume=False)
        with pytest.raises(CheckpointError, match="nothing to resume from"):
            prepare(config, run_dir, SHIPPED, resume=True)
        if at == 8:
            prepare(config, run_dir, SHIPPED, resume=False)
            assert written[-1] != "demo.yaml" and (run_dir / "configs" / "demo.yaml").is_file()


def test_another_split_than_asked_for_is_an_error(tmp_path):
    write_moving_shapes(tmp_path / "train", 1, seed=1)
    with pytest.raises(DataError, match="expected 2 videos of seed 1, found 1 of seed 1"):
        has_data(tmp_path / "train", 2, seed=1)


def test_stage_configs_chain_the_policies(tmp_path):
    config = config_in(tmp_path)
    run_dir = Path(config.run_dir)
    start = run_dir / "cold_start" / "policy"
    prepare(config, run_dir, start, resume=False)
    grpo = load_config(run_dir / "configs" / "grpo.yaml")
    assert grpo.policy.path == str(start)
    assert grpo.run_dir == str(run_dir / "grpo")
    assert load_config(run_dir / "eval" / "grpo" / "config.yaml").rewards == config.rewards
    assert load_config(run_dir / "configs" / "demo.yaml") == config
    assert f"{run_dir}/grpo/checkpoints/step-000002/policy" in grpo_stages(config, start)[2].command


def test_resume_needs_the_same_config(tmp_path):
    config = config_in(tmp_path)
    run_dir = Path(config.run_dir)
    with pytest.raises(CheckpointError, match="nothing to resume from"):
        prepare(config, run_dir, SHIPPED, resume=True)
    prepare(config, run_dir, SHIPPED, resume=False)
    prepare(config, run_dir, SHIPPED, resume=True)
    with pytest.raises(CheckpointError, match="started with the other --from-nothing"):
        prepare(config, run_dir, run_dir / "cold_start" / "policy", resume=True)
    with pytest.raises(
        CheckpointError, match=r"differs from the given config \(seed was 0 and is 5 now\); give the same"
    ):
        prepare(replace(config, seed=5), run_dir, SHIPPED, resume=True)
    prepare(replace(config, grpo=replace(config.grpo, workers=2)), run_dir, SHIPPED, resume=True)
    (run_dir / "configs" / "grpo.yaml").write_text("grpo: [")
    with pytest.raises(CheckpointError, match=r"grpo\.yaml: .*; put back that file"):
        prepare(config, run_dir, SHIPPED, resume=True)


def test_a_new_start_sets_the_last_one_aside_but_not_the_data(tmp_path):
    config = config_in(tmp_path)
    run_dir = Path(config.run_dir)
    for name in ("grpo/checkpoints/step-000009", "data/train", "mine"):
        (run_dir / name).mkdir(parents=True)
    (run_dir / "report.html").touch()
    prepare(config, run_dir, SHIPPED, resume=False)
    assert sorted(path.name for path in run_dir.iterdir()) == ["configs", "data", "earlier-1", "eval", "mine"]
    assert sorted(path.name for path in (run_dir / "earlier-1").iterdir()) == ["grpo", "report.html"]
    assert (run_dir / "earlier-1/grpo/checkpoints/step-000009").is_dir()
    prepare(config, run_dir, SHIPPED, resume=False)
    assert sorted(path.name for path in (run_dir / "earlier-2").iterdir()) == ["configs", "eval"]


def test_a_stage_that_was_begun_goes_on(tmp_path):
    stage = Phase("cold_start", "Cold start", ["-m", "rl.sft_coldstart"])
    assert with_resume(stage, tmp_path) == stage.command
    for name in ("cold_start", "grpo"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
        stage = Phase(name, "", ["-m", "rl"])
        assert with_resume(stage, tmp_path) == ["-m", "rl", "--resume"]


def test_a_failed_stage_stops_with_its_exit_code(tmp_path, capfd):
    ledger = PhaseLog(tmp_path)
    stage = Phase("bad", "A bad stage", ["-c", "raise SystemExit(3)"])
    with MemoryWatch() as watch, pytest.raises(SystemExit) as stopped:
        run_phase(stage, stage.command, ledger, watch)
    assert stopped.value.code == 3
    assert "'A bad stage' failed with exit code 3" in capfd.readouterr().err
    assert not PhaseLog(tmp_path).is_done("bad")


def test_the_time_of_a_broken_attempt_counts(tmp_path):
    ledger, stage = PhaseLog(tmp_path), Phase("grpo", "GRPO", [])
    ledger.add(stage, 10.0, 500, done=False)
    ledger.add(stage, 5.0, 300, done=True)
    assert PhaseLog(tmp_path).is_done("grpo")
    assert PhaseLog(tmp_path).costs() == [PhaseCost("GRPO", 15.0, 500)]
    assert json.loads(ledger.path.read_text())["grpo"]["done"] is True


def test_a_mistake_ends_with_a_message(tmp_path, monkeypatch):
    arguments = ["demo", "--config", "smoke", "--set", f"run_dir={tmp_path}", "--resume"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match=r"error: .*nothing to resume from"):
        main()
