"""The learner of one process runs on a machine without Ray."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import rl.learner.advantage, rl.learner.learner
print("ray" in sys.modules)
import rl.learner.data_parallel
print("ray" in sys.modules)
"""


def test_only_the_learner_of_several_processes_imports_ray():
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"]
