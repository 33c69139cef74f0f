"""Where the data or the policy of a shipped config is not there, the error names the command that makes it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.load import load_config, shipped_names
from cot_data.datasets import held_out_tasks, load_tasks
from cot_data.datasets.missing_root import require_root
from cot_data.datasets.training_sources import load_source, training_sources
from env.errors import CheckpointError, DataError
from rl import evaluate, grpo, predict, sft_coldstart
from rl.families import require_checkpoint

ROOT = Path(__file__).parents[3]
TRAIN_KEY = "data.train_root (or root in data.train)"
POLICY = str(ROOT / "policy" / "tiny")
COMMANDS: list[tuple[Callable[[], None], list[str], str]] = [
    (sft_coldstart.main, [], f"{TRAIN_KEY}: runs/RUN/data/train: not found; MAKE`python -m cot_data.moving_shapes"),
    (grpo.main, [], "policy.path: nothing: expected the folder of a policy; policy/tiny is shipped"),
    (grpo.main, ["--set", f"policy.path={POLICY}"], f"{TRAIN_KEY}: runs/RUN/data/train: not found; MAKE`python -m"),
    (evaluate.main, ["--checkpoint", POLICY, "--out", "o"], "data.eval_root: runs/RUN/data/heldout: not found; MAKE`"),
    (
        evaluate.main,
        ["--checkpoint", "nowhere", "--out", "o"],
        "--checkpoint: nowhere: expected the folder of a policy",
    ),
    (
        predict.main,
        ["--checkpoint", "nowhere", "--video", "v", "--query", "q", "--out", "o"],
        "--checkpoint: nowhere: expected the folder of a policy",
    ),
]


@pytest.mark.parametrize("at", range(len(COMMANDS)))
@pytest.mark.parametrize("name", ["tiny", "smoke"])
def test_a_first_command_without_data_names_the_remedy(
    name: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, more, expected = COMMANDS[at]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["command", "--config", name, *more])
    with pytest.raises(SystemExit) as caught:
        main()
    is_demo = name == "tiny"
    start = expected.replace("RUN", "demo" if is_demo else name).replace("MAKE", "`make demo` or " if is_demo else "")
    assert str(caught.value).startswith(f"error: {start}") and "\n" not in str(caught.value)


def test_the_named_command_makes_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config("smoke")
    with pytest.raises(DataError) as caught:
        held_out_tasks(config)
    assert "--videos 60 --seed 2" in caught.value.problem
    with pytest.raises(DataError, match="--videos 400 --seed 1"):
        load_source(training_sources(config.data)[0])
    command = shlex.split(caught.value.problem.split("`")[1].replace("--videos 60", "--videos 1"))
    assert command[:3] == ["python", "-m", "cot_data.moving_shapes"]
    subprocess.run([sys.executable, *command[1:]], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=120)
    assert len(held_out_tasks(config)) == 1


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_config_has_a_remedy(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(name)
    for source in training_sources(config.data):
        with pytest.raises(
            DataError,
            match=re.escape(TRAIN_KEY) + ": .*: not found; (`make|`python|name the folder)",
        ):
            load_source(source)
    with pytest.raises(DataError, match=r"^data.eval_root: .*: not found; "):
        held_out_tasks(config)


def test_the_folder_of_a_split_need_not_exist(tmp_path: Path) -> None:
    (tmp_path / "revos").mkdir()
    require_root("k", "revos", str(tmp_path / "revos" / "valid"))
    with pytest.raises(DataError, match=r"k: .*/other/valid: not found; name the folder"):
        require_root("k", "revos", str(tmp_path / "other" / "valid"))
    with pytest.raises(DataError, match=r"k: .*/revos/valid: not found"):
        require_root("k", "mevis", str(tmp_path / "revos" / "valid"))
    with pytest.raises(DataError, match="with the metadata in"):
        load_tasks("revos", tmp_path / "revos" / "valid")


def test_a_policy_is_a_folder(tmp_path: Path) -> None:
    require_checkpoint(tmp_path, "k")
    (tmp_path / "file").touch()
    for path in ("", tmp_path / "file", tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match=r"^k: .*expected the folder of a policy"):
            require_checkpoint(path, "k")
