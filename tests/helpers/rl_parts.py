"""Small real parts for tests of training: a data set of two videos, and a micro policy trained on it for a short time.

An untrained policy writes noise: its rewards are equal and every loss is zero. The micro policy has learnt enough to
answer about half of the time, in up to three turns, so that its actions depend on weights, seeds and frames.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from configs.load import load_config
from configs.schema import RunConfig
from cot_data.datasets import load_tasks
from cot_data.formats.vts_cot import Message, Record, TraceStep, write_records
from cot_data.moving_shapes.generate import ShapesConfig, write_moving_shapes
from cot_data.traces.turn_text import Thought, write_turn
from cot_data.traces.write import write_trace
from env.types import Interval, Select, Task

MICRO = (
    "policy.vocab_size=800",  # every word of the traces is one token: a turn takes some 40
    "policy.hidden=96",
    "policy.layers=2",
    "policy.vision_hidden=32",
    "policy.vision_layers=1",
    "policy.init_std=0.1",
    "policy.sam.image_size=64",
    "policy.sam.hidden=32",
    "policy.sam.embed=16",
    "env.strip_frames=4",
    "env.detail_frames=1",
    "env.zoom_frames=2",
    "env.max_action_tokens=72",
    "sampler.memory_gb=0.125",
    "sampler.max_sequences=16",
    "cold_start.log_every=10",
    "cold_start.save_every=1000",
    "cold_start.stages=[{kind: dialogue, steps: 60, batch_size: 8, lr: 3.0e-3, mask_coef: 0.5}]",
)


@dataclass(frozen=True)
class Micro:
    """The folders of the data set and of the policy trained on it."""

    data: Path
    policy: Path

    def overrides(self, run_dir: Path) -> list[str]:
        """Return the `--set` texts of a run that starts from the micro policy."""
        places = [f"run_dir={run_dir}", f"data.train_root={self.data}", f"data.eval_root={self.data}"]
        return [*MICRO, *places, f"policy.path={self.policy}"]

    def config(self, run_dir: Path, overrides: Sequence[str] = ()) -> RunConfig:
        return load_config("smoke", [*self.overrides(run_dir), *overrides])

    def tasks(self) -> list[Task]:
        return list(load_tasks("mevis", self.data))


def write_shapes(out: Path, videos: int = 2, seed: int = 3) -> Path:
    """Write Moving Shapes of a few videos of 32 frames; return `out`."""
    write_moving_shapes(out, videos, seed, ShapesConfig(max_frames=32), processes=1)
    return out


def write_lessons(data: Path, out: Path) -> Path:
    """Write traces of one or two turns for every other task of `data`, and with one more zoom in front for the rest."""
    config = load_config("smoke", MICRO).env
    records = []
    for number, task in enumerate(load_tasks("mevis", data)):
        record = write_trace(task, config, np.random.default_rng(number), "brief")
        records.append(record if number % 2 else with_a_look(record, task))
    write_records(out, records)
    return out


def with_a_look(record: Record, task: Task) -> Record:
    """Return the dialogue with a select of the whole video before its own turns."""
    frames = task.video.num_frames
    look = Select(Interval(0, frames), frames // 2)
    turn = write_turn(Thought("Step 1: unclear. Step 2: all. Step 3: unclear. Action: look.", look))
    system, *rest = record.conversations
    opening = [system, Message("human", "<image>"), Message("gpt", turn)]
    steps = (TraceStep(0, frames - 1, frames // 2), *record.cot_trace)
    return replace(record, conversations=(*opening, *rest), cot_trace=steps, round_num=len(steps))


def train_micro(folder: Path) -> Micro:
    """Write the data set and train the micro policy on it: the real cold start, some 15 CPU-seconds."""
    from rl.sft_coldstart import train

    data = write_shapes(folder / "data")
    lessons = write_lessons(data, folder / "lessons.json")
    places = [f"run_dir={folder / 'cold'}", f"data.train_root={data}", f"data.traces={lessons}"]
    return Micro(data, train(load_config("smoke", [*MICRO, *places])))


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
