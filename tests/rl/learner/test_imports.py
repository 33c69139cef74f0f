"""The learner of one process runs on a machine without Ray."""

from __future__ import annotations

import subprocess
import sys

import pytest


def ray_modules_after(statement: str) -> list[str]:
    """Run `statement` in a new process; return the modules of Ray that it has loaded."""
    program = f"import sys\n{statement}\nprint(*[name for name in sys.modules if name.split('.')[0] == 'ray'])"
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()


@pytest.mark.parametrize("module", ["rl.learner.learner", "rl.learner.advantage"])
def test_the_learner_does_not_import_ray(module: str):
    assert ray_modules_after(f"import {module}") == []
    assert "ray" in ray_modules_after("import rl.learner.data_parallel"), "the check sees Ray where it is imported"
