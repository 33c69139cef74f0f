"""An example of a stage of one's own: train the projection from [SEG] states to SAM 2 prompts, and nothing else."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from rl.sft.collator import Sequences, SftCollator
from rl.sft.context import StageContext
from rl.sft.loop import fit
from rl.sft.loss import sft_loss


def train_projection(context: StageContext) -> None:
    """Train `text_hidden_fcs` on the data set's traces; the language model and SAM 2 keep their weights."""
    dataset, batch_size = context.dataset, context.stage.batch_size
    collator = SftCollator(context, Sequences(dataset.dialogue, dataset.text_only, len(dataset)))
    rng = np.random.default_rng(context.config.seed)

    def step_loss(step: int) -> tuple[Tensor, dict[str, float]]:
        rows = [{"index": int(row)} for row in rng.choice(len(dataset), batch_size)]
        return sft_loss(context, collator(rows)["batches"])

    fit(context, context.policy.text_hidden_fcs.parameters(), step_loss)
