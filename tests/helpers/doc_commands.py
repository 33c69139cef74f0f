"""The commands in the pages, and a folder with tiny data in which they run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from configs.load import config_text, load_config
from cot_data.datasets import load_tasks
from cot_data.moving_shapes.generate import ShapesConfig, write_moving_shapes
from env.files import write_text
from env.rle import mask_or_empty
from env.store import TrajectoryStore
from env.types import names_in
from rewards import score
from tests.helpers.env_videos import write_video

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/**/*.md"))))
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINKED = ("rl", "policy", "rewards", "cot_data", "env", "configs", "tests", "docs", "Makefile", "pyproject.toml")
MINUTES = 10


def commands_in(text: str) -> list[str]:
    """Return the commands of all bash blocks in a page: continued lines joined, comments and spaces left out."""
    found = []
    for block in BLOCK.findall(text):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            if command := re.sub(r"(^|\s+)#.*$", "", line).strip():
                found.append(command)
    return found


def all_commands() -> list[str]:
    """Return the commands of README, CONTRIBUTING and the documentation, each once."""
    return list(dict.fromkeys(command for page in PAGES for command in commands_in((ROOT / page).read_text())))


class Workspace:
    """A folder that looks like a clone in which `make demo` has run, with two short videos of Moving Shapes as data."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._done: set[str] = set()
        for name in LINKED:
            (folder / name).symlink_to(ROOT / name)
        (folder / ".venv").symlink_to(sys.prefix)
        data = folder / "runs" / "demo" / "data" / "heldout"
        write_moving_shapes(data, 2, seed=2, config=ShapesConfig(max_frames=32), processes=1)
        for name in ("mydata/train", "data/mevis/train", "data/mevis/valid_u"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(data)
        self._write_masks(data, folder / "masks")
        write_video(folder / "clip.mp4", 8, "mpeg4")
        shutil.copytree(ROOT / "policy" / "tiny", folder / "runs" / "o3_2b")

    def run(self, command: str, needed: tuple[str, ...] = ()) -> None:
        """Run a command once, as it is written, after those that it needs. AssertionError where one fails.

        Args:
            command: A line of a page, or `demo run`, which stands for what `make demo` leaves in `runs/demo`.
            needed: Commands that have to come first.
        """
        for each in (*needed, command):
            if each in self._done:
                continue
            if each == "demo run":
                self._write_demo_run()
            else:
                done = subprocess.run(
                    ["bash", "-c", each],
                    cwd=self.folder,
                    capture_output=True,
                    text=True,
                    timeout=60 * MINUTES,
                    check=False,
                    input="",
                )
                assert done.returncode == 0, f"{each}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            self._done.add(each)

    def _write_masks(self, data: Path, out: Path) -> None:
        """PNG files of another system, which is right about everything."""
        for task in load_tasks("mevis", data):
            folder = out.joinpath(*names_in(task.task_id))
            folder.mkdir(parents=True)
            for frame, rle in zip(task.video.frames, task.gold, strict=True):
                mask_HW = mask_or_empty(rle, task.video.height, task.video.width)
                Image.fromarray(mask_HW.astype(np.uint8) * 255).save(folder / f"{frame}.png")

    def _write_demo_run(self) -> None:
        """Take the trajectories of `runs/eval` for those of step 11 of the demo, and its figures for both policies'."""
        evaluation, demo = self.folder / "runs" / "eval", self.folder / "runs" / "demo"
        for name in ("cold_start", "grpo"):
            shutil.copytree(evaluation, demo / "eval" / name)
        config = load_config("tiny")
        (demo / "grpo").mkdir()
        write_text(demo / "grpo" / "config.yaml", config_text(config))
        found = list(TrajectoryStore(evaluation / "trajectories").read())
        for trajectory in found:
            trajectory.scores = score(trajectory, config.rewards)
        store = TrajectoryStore(demo / "grpo" / "trajectories")
        store.append([replace(trajectory, step=11) for trajectory in found])


def options(command: str) -> tuple[str, list[str], list[str]]:
    """Return the module of a `python -m` command, its options without values, and its `--set` texts."""
    words = shlex.split(command)
    module = words[words.index("-m") + 1]
    rest = words[words.index("-m") + 2 :]
    names = [word for word in rest if word.startswith("--")]
    sets = [value for option, value in pairwise(rest) if option == "--set"]
    return module, names, sets
