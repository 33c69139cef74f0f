from __future__ import annotations

import argparse
import ast
from dataclasses import replace
from pathlib import Path

import pytest

from configs import load, ranges, schema
from configs.load import ConfigError, config_from_args, config_text, config_to_dict, load_config, validate
from configs.schema import RunConfig
from cot_data.datasets import DATASETS
from env.files import write_text
from env.prompts import PROMPTS
from policy.engines import SAMPLERS
from rewards import PROFILES, REWARDS
from rl.families import FAMILIES
from rl.learner.calibration import CALIBRATIONS
from rl.learner.importance_sampling import LEVELS
from rl.learner.policy_loss import KLS, LOSSES

SHIPPED = load.shipped_names()


def error_of(path: str | Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def written(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_the_shipped_configs_are_the_ones_the_readme_names():
    assert [name for name in SHIPPED if "/" not in name] == ["clips", "smoke", "tiny", "tiny_long"]
    stages = ("cold_start", "eval", "eval_nodes", "grpo", "grpo_nodes", "sft")
    published = ["base", *(f"{size}_{stage}" for size in ("2b", "4b") for stage in stages)]
    assert [name for name in SHIPPED if "/" in name] == sorted(f"videoseg_o3/{name}" for name in published)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_config_loads_and_survives_saving(name: str, tmp_path: Path):
    config = load_config(name)
    write_text(tmp_path / "config.yaml", config_text(config))
    assert load_config(tmp_path / "config.yaml") == config


def test_tiny_has_the_shape_of_the_laptop_recipe():
    """Settings that other parts rely on; steps and learning rates may be tuned."""
    config = load_config("tiny")
    assert (config.env.prompt, config.policy.path, config.sampler.dtype) == ("brief", "", "float32")
    assert [stage.kind for stage in config.cold_start.stages] == ["masks", "vision", "captions", "dialogue"]
    assert config.cold_start.stages[-1].freeze_sam
    weights = {"format": 0.5, "interval_iou": 1.0, "key_frame": 0.5, "mask_iou": 2.0, "promptness": 0.3}
    assert config.rewards == weights


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs_name_what_exists(name: str):
    config = load_config(name)
    assert config.rewards.keys() <= REWARDS.keys()
    assert config.data.dataset in DATASETS
    assert config.env.prompt in PROMPTS
    assert config.policy.kind in FAMILIES
    assert config.sampler.kind in SAMPLERS
    assert config.grpo.loss in LOSSES
    assert config.grpo.kl_form in KLS
    assert config.grpo.truncate_level in LEVELS
    assert config.grpo.calibration in CALIBRATIONS


def test_an_empty_file_gives_the_defaults(tmp_path: Path):
    assert load_config(written(tmp_path, "")) == RunConfig()


def test_extends_merges_sections_and_replaces_lists_and_rewards(tmp_path: Path):
    written(
        tmp_path,
        "env: {max_turns: 5, strip_frames: 4}\nrewards: {format: 1}\ncold_start: {stages: [{steps: 1}, {steps: 2}]}",
        "base.yaml",
    )
    config = load_config(
        written(tmp_path, "extends: base.yaml\nenv: {strip_frames: 6}\nrewards: {mask_iou: 3}\n"
                          "cold_start: {stages: [{steps: 9}]}")
    )  # fmt: skip
    assert (config.env.max_turns, config.env.strip_frames) == (5, 6)
    assert config.rewards == {"mask_iou": 3.0}
    assert [stage.steps for stage in config.cold_start.stages] == [9]


def test_extends_takes_a_shipped_name_or_a_file_beside_it(tmp_path: Path):
    assert load_config(written(tmp_path, "extends: tiny\nseed: 7")) == replace(load_config("tiny"), seed=7)
    assert "nowhere.yaml: no such file" in error_of(written(tmp_path, "extends: nowhere.yaml"))
    assert "extends: expected a file name, got 3" in error_of(written(tmp_path, "extends: 3"))


def test_extends_may_be_nested_and_the_last_file_wins(tmp_path: Path):
    written(tmp_path, "seed: 1\nenv: {max_turns: 5, strip_frames: 4, zoom_frames: 2}", "base.yaml")
    written(tmp_path, "extends: base.yaml\nenv: {strip_frames: 6, zoom_frames: 7}", "two.yaml")
    config = load_config(written(tmp_path, "extends: two.yaml\nenv: {zoom_frames: 8}", "four.yaml"))
    assert (config.seed, config.env.max_turns, config.env.strip_frames, config.env.zoom_frames) == (1, 5, 6, 8)
    assert config == load_config(tmp_path / "base.yaml", ["env.strip_frames=6", "env.zoom_frames=8"])


def test_a_cycle_of_extends_is_an_error(tmp_path: Path):
    one, two = written(tmp_path, "extends: two.yaml", "one.yaml"), written(tmp_path, "extends: one.yaml", "two.yaml")
    assert error_of(one) == f"{two}: extends: expected no cycle, found {one} extends {two} extends {one}"
    own = written(tmp_path, "extends: own.yaml", "own.yaml")
    assert error_of(own) == f"{own}: extends: expected no cycle, found {own} extends {own}"


def test_overrides_reach_sections_lists_and_rewards():
    config = load_config(
        "tiny",
        ["env.max_turns=2", "cold_start.stages.0.steps=5", "rewards.format=2", "grpo.lr=1e-3", "policy.path="],
    )
    base = load_config("tiny")
    assert config.env == replace(base.env, max_turns=2)
    assert config.cold_start.stages[0] == replace(base.cold_start.stages[0], steps=5)
    assert config.cold_start.stages[1:] == base.cold_start.stages[1:]
    assert config.rewards == {**base.rewards, "format": 2.0}
    assert (config.grpo.lr, config.policy.path) == (1e-3, "")
    assert load_config("tiny", ["rewards={format: 1}"]).rewards == {"format": 1.0}


def test_rewards_may_be_the_name_of_a_profile(tmp_path: Path):
    assert load_config(written(tmp_path, "rewards: videoseg_o3")).rewards == PROFILES["videoseg_o3"]
    changed = load_config("tiny", ["rewards=default", "rewards.progress=0"])
    assert changed.rewards == PROFILES["default"] | {"progress": 0.0}
    assert PROFILES["default"]["progress"] != 0, "what one config changes is its own"
    assert all(weights.keys() <= REWARDS.keys() for weights in PROFILES.values())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("env.max_turn=3", "env.max_turn: no such key; did you mean max_turns?"),
        ("max_turns=3", "max_turns: no such key; did you mean env.max_turns?"),
        ("batch_sizes=3", "batch_sizes: no such key; did you mean cold_start.stages.0.batch_size?"),
        ("zzz=1", "zzz: no such key; the keys here are run_dir, seed"),
        ("cold_start.stages.0.step=1", "cold_start.stages.0.step: no such key; did you mean steps?"),
        ("cold_start.stages.5.steps=1", "cold_start.stages.5: expected a position from 0 to 3"),
        ("cold_start.stages.x.steps=1", "cold_start.stages.x: expected a position from 0 to 3"),
        ("grpo.steps.x=1", "grpo.steps is a whole number and has no key 'x'"),
        ("rewards.format.x=1", "rewards.format is a number and has no key 'x'"),
        ("grpo.steps", "expected KEY=VALUE"),
        ("grpo.steps=[", "the value is not YAML"),
    ],
)
def test_a_bad_override_is_named(override: str, message: str):
    text = error_of("tiny", override)
    assert text.startswith(f"--set {override}: ")
    assert message in text


def test_training_data_without_effect_is_refused(tmp_path):
    text = error_of("videoseg_o3/2b_grpo", "data.train_root=/mine")
    assert text.startswith("--set data.train_root=/mine: has no effect beside data.train")
    assert load_config("videoseg_o3/2b_grpo", ["data.train_root=/mine", "data.train=[]"]).data.train_root == "/mine"
    assert load_config("videoseg_o3/2b_cold_start", ["data.traces=t.json"]).data.traces == "t.json"
    file = written(tmp_path, "extends: videoseg_o3/2b_grpo\ndata: {train_root: /mine}")
    assert error_of(file).startswith(f"{file}: data.train_root: has no effect beside data.train")
    both = written(tmp_path, "extends: videoseg_o3/2b_grpo\ndata: {train_root: /mine, train: []}")
    assert load_config(both).data.train_root == "/mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grpo: {steps: 1.5}", "grpo.steps: expected a whole number, got float 1.5"),
        ("grpo: {steps: true}", "grpo.steps: expected a whole number, got bool True"),
        ("grpo: {lr: true}", "grpo.lr: expected a number, got bool True"),
        ("grpo: {lr: fast}", "grpo.lr: expected a number, got str 'fast'"),
        ("grpo: {lr: .nan}", "grpo.lr: expected a finite number, got nan"),
        ("env: {blind: 1}", "env.blind: expected true or false, got int 1"),
        ("env: {prompt: 1}", "env.prompt: expected a text, got int 1"),
        ("env: 3", "env: expected a section of keys, got int 3"),
        ("env:", "env: expected a section of keys, got nothing"),
        ("cold_start: {stages: {kind: masks}}", "cold_start.stages: expected a list, each element a section of keys"),
        ("cold_start: {stages: [{lr: x}]}", "cold_start.stages.0.lr: expected a number, got str 'x'"),
        ("policy: {sam: {stages: [1, x, 2, 1]}}", "policy.sam.stages.1: expected a whole number, got str 'x'"),
        ("rewards: videoseg", "rewards: no profile 'videoseg'; known are default, videoseg_o3"),
        ("rewards: 3", "rewards: expected names with numbers, or the name of a profile, got int 3"),
        ("rewards: {format: high}", "rewards.format: expected a number, got str 'high'"),
        ("grop: {}", "grop: no such key; did you mean grpo?"),
        ("1: 2", "1: no such key"),
        ("- a", "expected sections and keys, got list"),
        ("a: [", "not a YAML file"),
        ("a: !!python/object/apply:os.getcwd []", "not a YAML file"),
    ],
)
def test_a_bad_file_is_named(text: str, message: str, tmp_path: Path):
    file = written(tmp_path, text)
    assert error_of(file).startswith(f"{file}: {message}")


def test_a_file_that_is_no_text_or_not_there_is_named(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    assert error_of(file).startswith(f"{file}: not a YAML file")
    assert "no such file" in error_of("tinny")
    assert "clips, smoke, tiny" in error_of("tinny")


def test_numbers_in_every_notation_are_read(tmp_path: Path):
    config = load_config(written(tmp_path, "grpo: {lr: 3e-6, kl_coef: 1, clip_low: 2E+0, max_grad_norm: 0.5}"))
    assert (config.grpo.lr, config.grpo.kl_coef, config.grpo.clip_low) == (3e-6, 1.0, 2.0)
    assert isinstance(config.grpo.kl_coef, float)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("grpo.group_size=1", "grpo.group_size: expected >= 2, got 1"),
        ("env.max_turns=0", "env.max_turns: expected >= 1, got 0"),
        ("cold_start.stages.1.lr=0", "cold_start.stages.1.lr: expected > 0, got 0.0"),
        ("env.max_context_tokens=256", "env.max_context_tokens: expected more than max_action_tokens (256)"),
        ("env.strip_pixels=63", "env.strip_pixels: expected at least size_factor squared (64)"),
        ("policy.heads=3", "policy.heads: expected a number that divides policy.hidden (128)"),
        ("policy.patch_size=7", "env.size_factor: expected a multiple of policy.patch_size x merge_size, got 8"),
        ("policy.sam.stages=[1, 1]", "policy.sam.stages: expected four numbers of blocks"),
        ("rewards={}", "rewards: expected at least one weight that is not 0"),
        ("grpo.loss=cispo", "grpo.clip_high: expected >= 1, the cap of the ratio in loss cispo, got 0.2"),
        ("grpo.calibration_clip=0.1", "grpo.calibration_clip: expected grpo.updates above 1"),
        ("cold_start.betas=[0.9]", "cold_start.betas: expected two numbers from 0 to below 1, got (0.9,)"),
        ("cold_start.betas=[0.9, 1]", "cold_start.betas: expected two numbers from 0 to below 1"),
        ("cold_start.stages.3.lr_schedule=cosin", "stages.3.lr_schedule: expected one of plateau, cosine, got 'cosin'"),
        ("cold_start.stages.0.epochs=1", "stages.0.epochs: expected 0 in a stage of masks"),
        ("cold_start.stages.3.sam_parts=[memory_encoder]", "stages.3.sam_parts: expected nothing beside freeze_sam"),
        ("policy.compute_dtype=bf16", "policy.compute_dtype: expected one of float32, bfloat16, got 'bf16'"),
        ("policy.lora_modules_to_save=[lm_head]", "policy.lora_rank: expected above 0 where lora_dropout or"),
    ],
)
def test_a_value_out_of_range_is_refused(override: str, message: str):
    assert message in error_of("tiny", override)


def test_all_problems_are_reported_at_once():
    config = load_config("tiny")
    bad = replace(config, seed=-1, eval=replace(config.eval, temperature=-0.5))
    with pytest.raises(ConfigError, match=r"seed: expected >= 0, got -1; eval.temperature: expected >= 0, got -0.5"):
        validate(bad)


def test_the_command_line_reads_the_same_config():
    parser = argparse.ArgumentParser()
    load.add_config_arguments(parser)
    assert config_from_args(parser.parse_args([])) == load_config("tiny")
    arguments = ["--config", "smoke", "--set", "seed=3", "--set", "grpo.steps=1"]
    assert config_from_args(parser.parse_args(arguments)) == load_config("smoke", ["seed=3", "grpo.steps=1"])
    with pytest.raises(SystemExit, match="config error: --set a=1: a: no such key"):
        config_from_args(parser.parse_args(["--set", "a=1"]))


def test_the_dict_form_is_plain():
    plain = config_to_dict(load_config("tiny"))
    assert plain["policy"]["sam"]["stages"] == [1, 1, 2, 1]
    assert (
        plain["cold_start"]["stages"][2]["decision_weight"] == load_config("tiny").cold_start.stages[2].decision_weight
    )


def test_every_field_has_a_sentence():
    """A docstring of two words or more right below the field, ending with a full stop."""
    missing = []
    for cls in ast.parse(Path(schema.__file__).read_text()).body:
        if not isinstance(cls, ast.ClassDef):
            continue
        for here, below in zip(cls.body, [*cls.body[1:], None], strict=True):
            if isinstance(here, ast.AnnAssign) and not is_sentence(below):
                missing.append(f"{cls.name}.{ast.unparse(here.target)}")
    assert missing == []


def is_sentence(node: ast.stmt | None) -> bool:
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)):
        return False
    return node.value.value.endswith(".") and len(node.value.value.split()) >= 2


def test_every_range_names_a_real_number():
    """`problems` walks each key down the config, so a key that does not exist raises here."""
    assert ranges.problems(RunConfig()) == []
