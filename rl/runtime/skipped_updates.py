"""Optimizer steps that are skipped because a loss or a gradient is not finite, in GRPO and in the cold start.

One such step would turn the weights into NaN, and with them every checkpoint and every weight that is sent to workers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from configs.plain_text import plain
from env.errors import VideoSegError

logger = logging.getLogger(__name__)


class NotFiniteError(VideoSegError):
    """More optimizer steps in a row were skipped than the config allows."""


class SkippedUpdates:
    """Counts skipped optimizer steps, logs their causes, and ends the run when there are too many in a row."""

    def __init__(self, most: int, key: str):
        """Start at zero.

        Args:
            most: Most skipped steps in a row.
            key: The config key of `most`, which the error names.
        """
        self.total = 0
        self._most = most
        self._key = key
        self._in_a_row = 0

    def record(self, causes: Sequence[str]) -> None:
        """Count one optimizer step, which was skipped if there are causes.

        NotFiniteError if it was skipped and as many before it as the config allows.
        """
        if not causes:
            self._in_a_row = 0
            return
        self.total += 1
        self._in_a_row += 1
        told = plain("; ".join(causes[:3]) + (f"; and {len(causes) - 3} more" if len(causes) > 3 else ""))
        logger.warning("an optimizer step is skipped, because numbers are not finite: %s", told)
        if self._in_a_row > self._most:
            raise NotFiniteError(
                f"{self._in_a_row} optimizer steps in a row were skipped, more than {self._key} ({self._most}), as "
                f"numbers are not finite; in the last one: {told}; lower the learning rate or the weight of that loss"
            )


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics that are finite; JSON has no word for the others."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def gradient_norm(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """Return the norm of all gradients, as `torch.nn.utils.clip_grad_norm_` does, and leave the gradients as they are.

    Clipping would spread one NaN over all of them, and the first bad one could not be named.
    """
    return torch.nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])


def gradient_cause(named: Iterable[tuple[str, nn.Parameter]]) -> str:
    """Return which gradient is not finite: the name of the first parameter, and how many there are."""
    grads = [(name, parameter.grad) for name, parameter in named if parameter.grad is not None]
    bad = [name for name, grad in grads if not torch.isfinite(grad).all()]
    if not bad:
        return "the norm of the gradient is too large for its precision"
    return f"the gradient of {bad[0]}" + (f" and of {len(bad) - 1} further weights" if len(bad) > 1 else "")
