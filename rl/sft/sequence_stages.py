"""Cold-start stages on whole sequences, in TRL's SFTTrainer.

`captions`: name what one frame shows. `dialogue`: traces of the multi-turn dialogue, with a mask at every [SEG].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from cot_data.moving_shapes.captions import caption_trajectories
from env.errors import DataError
from env.types import Trajectory
from rl.sft.collator import Sequences
from rl.sft.context import StageContext
from rl.sft.trainer import ColdStartTrainer, newest_checkpoint, steps_done
from rl.sft.unreadable import UnreadableSamples

NUM_CAPTIONS = 4000  # sequences sampled for a stage of captions


def train_captions(context: StageContext) -> None:
    """Train on questions about single frames of videos with labelled objects."""
    dataset, config = context.dataset, context.config
    rng = np.random.default_rng(config.seed)
    captions = caption_trajectories(dataset.videos, config.env, rng, NUM_CAPTIONS)
    train_sequences(context, Sequences(captions.__getitem__, dataset.text_only, len(captions)))


def train_dialogue(context: StageContext) -> None:
    """Train on the data set's traces as they run in the environment."""
    dataset = context.dataset
    train_sequences(context, Sequences(dataset.dialogue, dataset.text_only, len(dataset)))


def train_sequences(context: StageContext, sequences: Sequences) -> None:
    """Train on sequences, from the newest checkpoint in the stage's folder if an interrupted attempt left one."""
    stage = context.stage
    if stage.epochs:
        rows_per_step = stage.batch_size + stage.text_only_traces
        steps = math.ceil(stage.epochs * sequences.num_rows / rows_per_step)
        context = replace(context, stage=replace(stage, steps=steps))
    unreadable = UnreadableSamples(context, stage_rows(context))
    trainer = ColdStartTrainer(context, readable_rows(context, sequences, unreadable), unreadable)
    newest = newest_checkpoint(context.folder)
    context.journal.drop_from(steps_done(newest) + 1 if newest else 1)  # records behind it are written again
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)


def stage_rows(context: StageContext) -> int:
    """Return how many rows a stage takes in all."""
    stage = context.stage
    return stage.steps * (stage.batch_size + stage.text_only_traces)


def readable_rows(context: StageContext, sequences: Sequences, unreadable: UnreadableSamples) -> Sequences:
    """Return sequences in which the next readable row stands in for a row whose masks or frames cannot be read.

    Args:
        context: Of the stage.
        sequences: All rows.
        unreadable: Counts the rows that are left out.
    """

    def read(make: Callable[[int], Trajectory], row: int) -> Trajectory:
        trajectory = make(row)
        for turn in trajectory.turns:
            for frame in turn.observation.frames:
                context.frames.pixels(trajectory.task.video, frame)  # kept in the cache for the batch
        return trajectory

    def first_readable(make: Callable[[int], Trajectory], row: int) -> Trajectory:
        for after in range(sequences.num_rows):
            found = unreadable.read(partial(read, make, (row + after) % sequences.num_rows))
            if found is not None:
                return found
        raise DataError("cold start", "no trace can be read")

    return Sequences(
        partial(first_readable, sequences.make), partial(first_readable, sequences.make_text_only), sequences.num_rows
    )
