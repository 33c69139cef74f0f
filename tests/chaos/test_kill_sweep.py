"""A short form of the sweep, and the long one of 100 kills and 20 full disks (`make chaos`)."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.kill_sweep import Sweep, differences, kill_after, kinds, leaves
from tests.helpers.rl_parts import Micro

pytestmark = pytest.mark.timeout(7200)


@pytest.mark.parametrize(("name", "kills"), [("traces", 2), pytest.param("cold_start", 2, marks=pytest.mark.slow)])
def test_killed_commands_end_with_the_figures_of_whole_ones(micro: Micro, tmp_path: Path, name: str, kills: int):
    sweep = Sweep(kinds(micro)[name], tmp_path, random.Random(4))
    sweep.undisturbed(times=1)
    assert sweep.disturb(kills, kill_after) == kills
    assert sweep.outcome.failures == [], sweep.outcome.line()


@pytest.mark.slow
def test_a_hundred_kills_and_twenty_full_disks(tmp_path: Path):
    command = [sys.executable, "-m", "tests.chaos.kill_sweep", "--kills", "100", "--full-disks", "20"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_a_planted_difference_is_seen():
    ours = dict(leaves({"loss": [1.0, 2.0], "time/rollout_s": 3.0, "path": "/a/run/x"}, "/a/run"))
    theirs = dict(leaves({"loss": [1.0, 2.5], "time/rollout_s": 4.0, "path": "/b/run/x"}, "/b/run"))
    assert differences(ours, theirs) == ["/loss/1"]
    assert differences(ours, {}) == ["/loss/0", "/loss/1", "/path"]
