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
from rl.sft.trainer import ColdStartTrainer

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
    steps_done = max((int(path.name.split("-")[1]) for path in context.folder.glob("checkpoint-*")), default=0)
    context.journal.drop_from(steps_done + 1)  # records behind that checkpoint, which are written again
    trainer.train(resume_from_checkpoint=str(context.folder / f"checkpoint-{steps_done}") if steps_done else None)
