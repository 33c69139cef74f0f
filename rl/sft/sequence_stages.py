"""Cold-start stages on whole sequences, in TRL's SFTTrainer.

`captions`: name what one frame shows. `dialogue`: traces of the multi-turn dialogue, with a mask at every [SEG].
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from cot_data.moving_shapes.captions import caption_trajectories
from rl.sft.collator import Sequences
from rl.sft.context import StageContext
from rl.sft.trainer import ColdStartTrainer, newest_checkpoint, steps_done

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
    trainer = ColdStartTrainer(context, sequences)
    newest = newest_checkpoint(context.folder)
    context.journal.drop_from(steps_done(newest) + 1 if newest else 1)  # records behind it are written again
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)
