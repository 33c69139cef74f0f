"""Configs from outside: what misleads, fills the memory or is no number is one ConfigError with its place."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from configs.load import ConfigError, config_text, load_config, shipped_names
from configs.yaml_text import MAX_DEPTH, MAX_ENTRIES, MAX_SCALAR, MAX_TEXT, parse_yaml

ROOT = Path(__file__).parents[2]
LAUGHS = "a: &a [ha, ha]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{f'*{chr(97 + i)}, ' * 9}]\n" for i in range(9))
BOMBS = {
    "billion laughs": (LAUGHS, "line 1 holds an anchor or alias ('a'); write its content out"),
    "alias of itself": ("a: &a [*a]", "line 1 holds an anchor"),
    "anchor alone": ("seed: 0\ngrpo: &g {steps: 1}", "line 2 holds an anchor"),
    "section twice": ("grpo: {steps: 1}\nseed: 1\ngrpo: {lr: 1.0}", "line 3 holds the key 'grpo' twice"),
    "key twice": ("grpo:\n  steps: 1\n  steps: 1", "line 3 holds the key 'steps' twice"),
    "key twice in a list": (
        "cold_start: {stages: [{kind: masks, steps: 1, kind: masks}]}",
        "the key 'kind' twice",
    ),
    "one key in two spellings": ("yes: 1\ntrue: 2", "line 2 holds the key 'True' twice"),
    "merge key": ("grpo:\n  <<: {steps: 1}", "line 2 holds a merge key"),
    "list as key": ("? [a, b]\n: 1", "expected a text"),
    "section as key": ("{{a: 1}: 2}", "expected a text"),
    "deep flow": ("a: " + "[" * 100_000, f"more than {MAX_DEPTH} levels"),
    "deep blocks": ("- " * 1000 + "x", f"more than {MAX_DEPTH} levels"),
    "deep keys": ("? " * 1000 + "x", f"more than {MAX_DEPTH} levels"),
    "long text": ("run_dir: " + "x" * (MAX_SCALAR + 1), f"expected at most {MAX_SCALAR}"),
    "long key": (f"{'k' * 1000}: 1", "no such key"),
    "long integer": ("seed: " + "9" * 5000, "4300 digits"),
    "integer beyond 64 bits": ("seed: " + "9" * 20, "seed: expected a whole number of at most 64 bits"),
    "long list": ("env: {tools: [" + "a, " * (MAX_ENTRIES + 1) + "]}", f"expected at most {MAX_ENTRIES}"),
    "many keys": ("rewards: {" + ", ".join(f"k{i}: 1" for i in range(MAX_ENTRIES + 1)) + "}", "entries"),
    "long file": ("# " + "x" * MAX_TEXT, f"expected at most {MAX_TEXT}"),
    "empty number": ("seed: !!int ''", "line 1 holds the tag 'tag:yaml.org,2002:int'"),
    "class": ("seed: !!python/name:os.system", "holds the tag"),
    "no date": ("run_dir: 2020-13-45", "month must be in 1..12"),
    "half of a surrogate pair": ('run_dir: "\\ud800"', "which no file name can hold"),
    "null character": ('run_dir: "a\\0b"', "which no file name can hold"),
    "two documents": ("seed: 1\n---\nseed: 2", "expected a single document"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_one_error_at_once(kind: str, tmp_path: Path) -> None:
    text, reason = BOMBS[kind]
    file = tmp_path / "mine.yaml"
    file.write_text(f"extends: tiny\n{text}" if kind == "long key" else text)
    begin = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert time.monotonic() - begin < 5
    assert str(caught.value).startswith(f"{file}: ") and reason in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 2000


NOT_FINITE = [".inf", "-.inf", ".nan", "1e999", "-1.0e+400", "9" * 400]
NUMBERS = ["grpo.lr", "env.max_seconds", "sampler.memory_gb", "cold_start.betas.1", "cold_start.stages.0.lr"]
NUMBERS += ["rewards.mask_iou", "data.train.0.weight"]


@pytest.mark.parametrize("value", NOT_FINITE, ids=range(len(NOT_FINITE)))
@pytest.mark.parametrize("key", NUMBERS)
def test_no_number_is_infinite_or_none(key: str, value: str, tmp_path: Path) -> None:
    """By file, by --set, and by --set of the whole section or list, wherever the number lies."""
    base = tmp_path / "base.yaml"
    base.write_text("extends: tiny\ndata: {train_root: '', train: [{root: x}]}")
    with pytest.raises(ConfigError, match=f"{key}: expected a finite number, got "):
        load_config(base, [f"{key}={value}"])
    *above, last = key.split(".")
    nested = f"[0.9, {value}]" if last == "1" else f"{{{last}: {value}}}"
    if above[-1] == "0":
        above, nested = above[:-1], f"[{nested}]"
    elif last == "1":
        assert above == ["cold_start", "betas"]
    with pytest.raises(ConfigError, match=f"{key}: expected a finite number, got "):
        load_config(base, [f"{'.'.join(above)}={nested}"])
    file = tmp_path / "mine.yaml"
    text = nested
    for part in reversed(above):
        text = f"{{{part}: {text}}}"
    file.write_text(f"extends: base.yaml\n{text[1:-1]}")
    with pytest.raises(ConfigError, match=f"mine.yaml: {key}: expected a finite number, got "):
        load_config(file)


@pytest.mark.parametrize("text", ["grpo={steps: 1, steps: 2}", "grpo.lr=&a 1", "env.tools=[*a]", "seed=!!int ''"])
def test_an_override_is_read_as_strictly(text: str) -> None:
    with pytest.raises(ConfigError, match="the value is not YAML: line 1 holds "):
        load_config("tiny", [text])


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_and_written_configs_are_read_as_by_pyyaml(name: str) -> None:
    text = (ROOT / "configs" / f"{name}.yaml").read_text()
    assert parse_yaml(text) == yaml.safe_load(text)
    written = config_text(load_config(name))
    assert parse_yaml(written) == yaml.safe_load(written)


def test_a_command_ends_with_one_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("grpo: {steps: 1}\n'\\e]0;title\\a': 1\n\"\\e[31mred\": 2\ngrpo: {lr: 1.0}\n")
    command = [sys.executable, "-m", "rl.grpo", "--config", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.endswith("line 4 holds the key 'grpo' twice\n")
    file.write_text('"\\e[31mred\\e]0;title\\a": 2\n')
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert "red: no such key" in done.stderr and "\x1b" not in done.stderr and done.stderr.count("\n") == 1
