"""The training loop of cold-start stages that use no Trainer: AdamW, one learning-rate schedule, a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from rl.runtime.progress import progress_bar
from rl.sft.context import StageContext

LOG_EVERY = 10


def fit(
    context: StageContext,
    parameters: Iterable[nn.Parameter],
    step_loss: Callable[[int], tuple[Tensor, dict[str, float]]],
) -> None:
    """Take the optimizer steps of a stage, from the first one, and write metrics to its journal.

    Args:
        context: Gives the number of steps, the highest learning rate (`stage.steps`, `stage.lr`) and the journal.
        parameters: The weights to train; all others stay as they are.
        step_loss: Samples the batch of a step, numbered from 0, and returns its scalar loss and its metrics.
    """
    parameters, stage = list(parameters), context.stage
    optimizer = torch.optim.AdamW(parameters, lr=stage.lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, stage.lr, stage.steps, pct_start=0.05, cycle_momentum=False
    )
    context.journal.drop_from(0)  # records of an attempt that was interrupted, which is not resumed here
    with progress_bar(f"cold start: {stage.kind}", stage.steps) as advance:
        for step in range(stage.steps):
            loss, metrics = step_loss(step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            advance()
            if step % LOG_EVERY == 0 or step == stage.steps - 1:
                context.journal.log(step, metrics)
