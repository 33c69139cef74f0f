"""Check that reading a config, a trajectory or a reward loads no torch: `configs`, `env` and `rewards` stay light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "vllm", "ray")
PROBE = """
import importlib, sys
heavy, names = sys.argv[1].split(","), sys.argv[2:]
for name in names:
    importlib.import_module(name)
    loaded = [module for module in heavy if module in sys.modules]
    if loaded:
        sys.exit(f"{name} loads {', '.join(loaded)}")
"""


def probe(names: list[str], folder: Path) -> str:
    """Return the message of a fresh interpreter on the first module that loads a heavy one; empty if none does."""
    command = [sys.executable, "-c", PROBE, ",".join(HEAVY), *names]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    return done.stderr.strip()


@pytest.mark.parametrize("package", ["configs", "env", "rewards"])
def test_importing_loads_nothing_heavy(package: str):
    """Entry points too: they import heavy modules inside functions, so that `--help` is fast."""
    files = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    assert names
    assert probe(names, ROOT) == ""


def test_the_probe_sees_a_planted_import(tmp_path: Path):
    (tmp_path / "light.py").write_text("import json\n")
    (tmp_path / "sly.py").write_text("import torch\n")
    assert probe(["light", "sly"], tmp_path) == "sly loads torch"
