"""The training loop of the cold-start stages that know no sequences: AdamW, one rate schedule, a bar and a journal."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from configs.schema import StageConfig
from rl.runtime.journal import Journal
from rl.runtime.progress import progress_bar

LOG_EVERY = 10


def fit(
    parameters: Iterable[nn.Parameter],
    config: StageConfig,
    journal: Journal,
    step_loss: Callable[[int], tuple[Tensor, dict[str, float]]],
) -> None:
    """`config.steps` optimizer steps on `step_loss(step)` -> (loss, metrics), which draws its own batch."""
    parameters = list(parameters)
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.lr, config.steps, pct_start=0.05, cycle_momentum=False
    )
    with progress_bar(f"cold start: {config.kind}", config.steps) as advance:
        for step in range(config.steps):
            loss, metrics = step_loss(step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            advance()
            if step % LOG_EVERY == 0 or step == config.steps - 1:
                journal.log(step, metrics)
