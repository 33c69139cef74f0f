"""A stage of a user's own: one file and one line in `STAGES`, and it runs through the command."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_model

from configs.load import load_config
from policy.videoseg.checkpoint import load_policy
from rl.sft.stages import STAGES
from tests.helpers.rl_parts import Micro, read_lines

ROOT = Path(__file__).parents[3]
EXAMPLE = Path(__file__).with_name("projection_stage.py")
PACKAGES = ("configs", "env", "rewards", "policy", "cot_data", "rl")


def copy_with_the_stage(folder: Path) -> Path:
    """Copy the program, with the example's file and its line (and import) in rl/sft/stages.py."""
    ignore = shutil.ignore_patterns("*.safetensors", "__pycache__")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=ignore)
    shutil.copy(EXAMPLE, folder / "rl" / "sft" / EXAMPLE.name)
    registry = folder / "rl" / "sft" / "stages.py"
    source, end = registry.read_text(), '    "dialogue": train_dialogue,\n'
    assert end in source
    source = source.replace(end, f'{end}    "projection": train_projection,\n')
    imports = "from rl.sft.vision_stage import"
    registry.write_text(source.replace(imports, f"from rl.sft.projection_stage import train_projection\n{imports}"))
    return folder


def test_a_stage_of_ones_own_is_one_file_and_one_line(micro: Micro, tmp_path: Path):
    """The command trains with it, and the next stage continues from its weights."""
    program = copy_with_the_stage(tmp_path / "program")
    stages = "[{kind: projection, steps: 3, batch_size: 2, lr: 1.0e-3}, {kind: dialogue, steps: 1, batch_size: 2}]"
    sets = [*micro.overrides(tmp_path / "run"), f"cold_start.stages={stages}"]
    command = [sys.executable, "-m", "rl.sft_coldstart", "--config", "smoke"]
    done = subprocess.run(
        [*command, *(word for text in sets for word in ("--set", text))],
        cwd=program,
        env=os.environ | {"PYTHONPATH": str(program)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "run" / "stage-0-projection"
    rows = read_lines(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 2] and all(row["loss/masks"] > 0 for row in rows)
    before, after = load_policy(micro.policy), load_policy(micro.policy)
    load_model(after, str(folder / "policy.safetensors"))
    changed = {name for name, each in before.named_parameters() if not torch.equal(each, after.get_parameter(name))}
    assert changed == {name for name, _ in before.named_parameters() if name.startswith("text_hidden_fcs")}
    assert (tmp_path / "run" / "stage-1-dialogue" / "policy.safetensors").is_file()


def test_the_example_imports_nothing_private():
    imported = [node for node in ast.walk(ast.parse(EXAMPLE.read_text())) if isinstance(node, ast.ImportFrom)]
    names = [alias.name for node in imported for alias in node.names]
    assert names and not [name for name in names if name.startswith("_")]


def test_shipped_configs_use_every_stage():
    used = {stage.kind for name in ("tiny", "smoke") for stage in load_config(name).cold_start.stages}
    assert used == STAGES.keys()
