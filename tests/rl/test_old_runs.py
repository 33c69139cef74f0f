"""Files that older versions wrote: runs, evaluations and checkpoints go on under the present names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from configs.load import ConfigError, config_to_dict, load_config
from configs.schema import EnvConfig, RunConfig
from env import replay
from env.errors import DataError
from env.store import TrajectoryStore
from env.types import Scores, Trajectory
from policy import SHIPPED
from rewards import score
from rl.demo import prepare
from rl.evaluation.identity import claim
from rl.report.training_curves import with_present_names
from tests.helpers.reward_cases import HALF, TARGET, answer, select, trajectory

OLD = {"max_oversampling": "refill", "text_only_traces": "readings", "zoom_share": "look_share"}
OLD |= {"blind_zooms": "blind_looks", "turn_cost": "turn_price"}


def in_old_words(value: object) -> object:
    """A config as an older version saved it: the same values, five other names."""
    if isinstance(value, dict):
        return {OLD.get(key, key): in_old_words(part) for key, part in value.items()}
    return [in_old_words(part) for part in value] if isinstance(value, list) else value


def write_old_config(path: Path, *overrides: str) -> RunConfig:
    config = load_config("tiny", overrides)
    text = yaml.safe_dump(in_old_words(config_to_dict(config)))
    assert all(f"{old}:" in text for old in OLD.values())
    path.write_text(text)
    return config


def test_a_config_of_an_older_run_reads_as_it_was_meant(tmp_path: Path):
    changes = ("grpo.max_oversampling=3", "eval.blind_zooms=true", "cold_start.zoom_share=0.2")
    changes += ("cold_start.stages.2.text_only_traces=7", "rewards.turn_cost=0.125")
    config = write_old_config(tmp_path / "config.yaml", *changes)
    assert load_config(tmp_path / "config.yaml") == config
    assert config.rewards["turn_cost"] == 0.125


def test_a_key_under_both_names_is_refused(tmp_path: Path):
    (tmp_path / "both.yaml").write_text("grpo: {refill: 2, max_oversampling: 3}")
    with pytest.raises(ConfigError, match=r"both\.yaml: grpo\.refill was renamed to grpo\.max_oversampling, which is"):
        load_config(tmp_path / "both.yaml")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("grpo.refill=2", "grpo.max_oversampling"),
        ("cold_start.stages.0.readings=2", "cold_start.stages.0.text_only_traces"),
        ("rewards.turn_price=0.1", "rewards.turn_cost"),
    ],
)
def test_on_the_command_line_the_new_name_is_told(old: str, new: str):
    with pytest.raises(ConfigError, match=rf"was renamed to {new}$"):
        load_config("tiny", [old])


def old_store(folder: Path, config: RunConfig) -> Trajectory:
    """A scored trajectory whose breakdown has the old name."""
    item = trajectory([select(), answer()], masks={2: TARGET}, key_masks=[HALF, TARGET])
    scores = score(item, config.rewards)
    item.scores = Scores(scores.total, {OLD.get(name, name): value for name, value in scores.breakdown.items()})
    assert "turn_price" in item.scores.breakdown
    TrajectoryStore(folder).append([item])
    return item


def test_an_older_run_is_replayed_and_rescored(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = write_old_config(tmp_path / "config.yaml", "rewards.turn_cost=0.125")
    old = old_store(tmp_path / "trajectories", config)
    assert replay.main([str(tmp_path), "--rescore"]) == 0
    assert "1 rescored (weights of config.yaml), 0 differ" in capsys.readouterr().out
    (read,) = TrajectoryStore(tmp_path / "trajectories").read()
    assert old.scores is not None and read.scores is not None
    assert read.scores.breakdown["turn_cost"] == old.scores.breakdown["turn_price"] == -1.0


def old_identity(out: Path) -> dict:
    """`evaluation.json` as it was before families had names and the environment its newest keys."""
    claim(out, load_config("tiny"), SHIPPED, [])
    identity = json.loads((out / "evaluation.json").read_text())
    assert identity.pop("family") == "videoseg"
    identity["eval"]["blind_looks"] = identity["eval"].pop("blind_zooms")
    del identity["env"]["blind"]
    (out / "evaluation.json").write_text(json.dumps(identity))
    return identity


def test_an_older_evaluation_goes_on(tmp_path: Path):
    before = old_identity(tmp_path)
    claim(tmp_path, load_config("tiny"), SHIPPED, [])
    assert json.loads((tmp_path / "evaluation.json").read_text()) == before
    for change in ("eval.blind_zooms=true", "env.blind=true", "env.max_turns=1"):
        key = change.partition("=")[0]
        with pytest.raises(DataError, match=rf"other settings: {key} was \S+ and is \S+ now; name another --out"):
            claim(tmp_path, load_config("tiny", [change]), SHIPPED, [])
    assert EnvConfig().blind is False


def test_an_older_demo_is_resumed(tmp_path: Path):
    config = load_config("tiny", [f"run_dir={tmp_path}"])
    prepare(config, tmp_path, SHIPPED, resume=False)
    for path in (tmp_path / "configs").glob("*.yaml"):
        path.write_text(yaml.safe_dump(in_old_words(yaml.safe_load(path.read_text()))))
    prepare(config, tmp_path, SHIPPED, resume=True)
    assert load_config(tmp_path / "configs" / "grpo.yaml").grpo == config.grpo


def test_metrics_of_an_older_run_are_drawn_under_their_present_names():
    old = {"step": 3, "heldout/jf/all": 0.5, "reward/turn_price/mean": -1.0, "reward/total/mean": 2.0}
    new = {"step": 3, "eval/jf/all": 0.5, "reward/turn_cost/mean": -1.0, "reward/total/mean": 2.0}
    assert with_present_names(old) == new
