"""The narrow seam between rollouts and whatever engine writes the turns: token in, token out, log-probs kept.

No torch here, so that callers can name a `Request` without loading an engine. An engine is a class that satisfies
`Sampler` and one line in `policy.engines.SAMPLERS`.
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
    """One turn to be written."""

    request_id: str  # unique among the requests in flight
    prompt_ids: tuple[int, ...]  # the whole conversation so far, one image pad per frame
    images: tuple[np.ndarray, ...]  # uint8 [H, W, 3], one per pad, in order; sides are multiples of patch x merge
    max_tokens: int  # most tokens to write; the context limit may cut earlier
    temperature: float  # 0 is greedy
    seed: int  # same request, same weights, same seed: same tokens


def expanded_length(request: GenerationRequest, layout: PatchLayout, image_pad_id: int, max_context: int) -> int:
    """Prompt tokens once every image pad stands for its frame's patches.

    Raises ValueError when pads and frames disagree, a frame's sides are no multiples, or no room is left to write.
    """
    pads = sum(token == image_pad_id for token in request.prompt_ids)
    if pads != len(request.images):
        raise ValueError(f"request {request.request_id}: {pads} image pads for {len(request.images)} frames")
    length = len(request.prompt_ids) - pads + sum(layout.num_tokens(*image.shape[:2]) for image in request.images)
    if length >= max_context:
        raise ValueError(f"request {request.request_id}: {length} tokens leave no room in a context of {max_context}")
    return length


@dataclass(frozen=True)
class Completion:
    """One written turn."""

    request_id: str
    token_ids: tuple[int, ...]  # end token included when finish is "stop"
    logprobs: tuple[float, ...]  # raw: temperature 1, whole vocabulary, before any ban
    finish: Literal["stop", "length"]
    weights_version: int
    prompt_tokens: int = 0  # expanded
    cached_tokens: int = 0  # of these, whose states a prefix cache still held


class Sampler(Protocol):
    """An engine that writes many turns at once. `version` is -1 until the first `load_weights`."""

    version: int

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request. Raises ValueError for a request that can never run (pads, sizes, length, id in use)."""
        ...

    def step(self) -> list[Completion]:
        """Advance all requests; return those that finished."""
        ...

    def has_work(self) -> bool:
        """Whether any request is queued or being written."""
        ...

    def abort(self, request_ids: Sequence[str]) -> None:
        """Forget requests in flight; they never complete, and their ids are free again."""
        ...

    def load_weights(self, moved: WeightUpdate, version: int) -> None:
        """Copy what has changed since the folder was loaded, and drop every state that the old weights left.

        Encoded frames stay where no weight of the vision tower is among it. Raises RuntimeError while requests are in
        flight, CheckpointError for a weight that is unknown, misshapen, or was part of an earlier sync and is missing.
        """
        ...

    def close(self) -> None:
        """Free the engine; it cannot be used afterwards."""
        ...
