"""The protocol between rollouts and the engines that sample turns: tokens in, tokens and their log-probs out.

This module imports no torch, so that callers can make a `GenerationRequest` without loading an engine. A new engine is
a class that satisfies `Sampler` and one line in `policy.engines.SAMPLERS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from policy.vlm.patches import PatchLayout

if TYPE_CHECKING:
    from policy.engines.weight_update import WeightUpdate


@dataclass(frozen=True)
class GenerationRequest:
    """A turn to sample."""

    request_id: str  # unique among the requests in flight
    prompt_ids: tuple[int, ...]  # the whole dialogue so far, one image pad per frame
    images: tuple[np.ndarray, ...]  # uint8 [H, W, 3], one per pad, in order; sides are multiples of patch x merge
    max_tokens: int  # most tokens of the turn; the context limit may end it earlier
    temperature: float  # 0 is greedy
    seed: int  # same request, same weights, same seed: same tokens


def expanded_length(request: GenerationRequest, layout: PatchLayout, image_pad_id: int, max_context: int) -> int:
    """Return the number of prompt tokens with every image pad expanded to the tokens of its frame.

    Args:
        request: The request, one image pad per frame.
        layout: Patch sizes of the vision tower.
        image_pad_id: Id of the image pad.
        max_context: Most expanded tokens of prompt and completion together.

    Raises:
        ValueError: The numbers of pads and frames differ, a frame's sides are not multiples of patch x merge, or the
            prompt fills the context.
    """
    pads = sum(token == image_pad_id for token in request.prompt_ids)
    if pads != len(request.images):
        raise ValueError(f"request {request.request_id}: {pads} image pads for {len(request.images)} frames")
    length = len(request.prompt_ids) - pads + sum(layout.num_tokens(*image.shape[:2]) for image in request.images)
    if length >= max_context:
        raise ValueError(
            f"request {request.request_id}: a prompt of {length} tokens fills the context of {max_context}"
        )
    return length


@dataclass(frozen=True)
class Completion:
    """A sampled turn."""

    request_id: str
    token_ids: tuple[int, ...]  # with the end token when finish is "stop"
    logprobs: tuple[float, ...]  # at temperature 1 over the whole vocabulary, before tokens are banned
    finish: Literal["stop", "length"]
    weights_version: int
    prompt_tokens: int = 0  # expanded
    cached_tokens: int = 0  # of these, those whose states came from a prefix cache


class Sampler(Protocol):
    """An engine that samples many turns at once."""

    version: int  # of the weights in use; -1 before the first `load_weights`

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request. Raises ValueError for one that can never run (pads, sizes, length, id in use)."""
        ...

    def step(self) -> list[Completion]:
        """Advance all requests and return those that finished."""
        ...

    def has_work(self) -> bool:
        """Return whether any request is queued or running."""
        ...

    def abort(self, request_ids: Sequence[str]) -> None:
        """Drop requests in flight: they never complete, and their ids may be used again."""
        ...

    def load_weights(self, update: WeightUpdate, version: int) -> None:
        """Copy the weights that training has changed, and drop every state computed with the old ones.

        Encoded frames stay valid, and are kept, if the update has no weight of the vision tower.

        Args:
            update: Every weight that differs from the folder the engine was loaded from.
            version: Number of the weights, written into every later completion.

        Raises:
            RuntimeError: Requests are in flight.
            CheckpointError: A weight is unknown, has the wrong shape, or was part of an earlier update and is missing.
        """
        ...

    def close(self) -> None:
        """Free the engine; it cannot be used afterwards."""
        ...
