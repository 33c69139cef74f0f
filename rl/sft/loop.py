"""The training loop of cold-start stages that use no Trainer: AdamW, one learning-rate schedule, a progress bar."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from rl.runtime.progress import progress_bar
from rl.runtime.skipped_updates import SkippedUpdates, finite, gradient_cause, gradient_norm
from rl.sft.context import StageContext
from rl.sft.unreadable import UnreadableSamples

LOG_EVERY = 10


def fit(
    context: StageContext,
    parameters: Iterable[nn.Parameter],
    step_loss: Callable[[int], tuple[Tensor, dict[str, float]] | None],
    unreadable: UnreadableSamples | None = None,
) -> None:
    """Take the optimizer steps of a stage, from the first one, and write metrics to its journal.

    A step whose loss or gradient is not finite is skipped, and one whose data cannot be read is left out.

    Args:
        context: Gives the number of steps, the highest learning rate (`stage.steps`, `stage.lr`) and the journal.
        parameters: The weights to train; all others stay as they are.
        step_loss: Samples the batch of a step, numbered from 0, and returns its scalar loss and its metrics; None where
            no sample of the batch can be read. It may also raise DataError, which leaves out the whole step.
        unreadable: Where `step_loss` counts samples that it leaves out.

    Raises:
        NotFiniteError: More steps in a row were skipped than `cold_start.max_skipped_updates`.
        TooManyUnreadableError: More samples cannot be read than `cold_start.max_failed_share` allows.
    """
    parameters, stage = list(parameters), context.stage
    unreadable = unreadable or UnreadableSamples(context, stage.steps)
    skipped = SkippedUpdates(context.config.cold_start.max_skipped_updates, "cold_start.max_skipped_updates")
    names = {parameter: f"weight {at}" for at, parameter in enumerate(parameters)}
    names |= {parameter: name for name, parameter in context.policy.named_parameters()}
    optimizer = torch.optim.AdamW(parameters, lr=stage.lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, stage.lr, stage.steps, pct_start=0.05, cycle_momentum=False
    )
    context.journal.drop_from(0)  # records of an attempt that was interrupted, which is not resumed here
    with progress_bar(f"cold start: {stage.kind}", stage.steps) as advance:
        for step in range(stage.steps):
            found = unreadable.read(partial(step_loss, step))
            optimizer.zero_grad(set_to_none=True)
            metrics: dict[str, float] = {}
            if found is not None:
                loss, metrics = found
                loss.backward()
                norm = gradient_norm(parameters)
                causes = _causes(metrics, norm, zip(map(names.__getitem__, parameters), parameters, strict=True))
                skipped.record(causes)
                if not causes:
                    nn.utils.clip_grads_with_norm_(parameters, 1.0, norm)
                    optimizer.step()
            schedule.step()
            advance()
            if step % LOG_EVERY == 0 or step == stage.steps - 1:
                counts = {"optim/skipped": float(skipped.total), "data/left_out": float(unreadable.count)}
                context.journal.log(step, finite(metrics) | counts)


def _causes(metrics: dict[str, float], norm: Tensor, named: Iterable[tuple[str, nn.Parameter]]) -> list[str]:
    """Return which losses are not finite, or which gradient is not; nothing where all are."""
    causes = [name for name, value in metrics.items() if name.startswith("loss/") and not math.isfinite(value)]
    return causes if causes or torch.isfinite(norm) else [gradient_cause(named)]
