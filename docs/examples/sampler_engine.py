"""A sampler engine: every token is drawn uniformly from the vocabulary. A lower bound for any policy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from configs.schema import SamplerConfig
from policy.engines.base import Completion, GenerationRequest, Sampler, expanded_length
from policy.engines.weight_update import WeightUpdate
from policy.vlm.load import load_chat


class UniformSampler:
    """Satisfies `policy.engines.base.Sampler`; weights mean nothing to it."""

    def __init__(self, model_dir: Path, max_context: int):
        self.version = -1
        self._max_context = max_context
        self._chat, self._layout = load_chat(model_dir)
        self._num_tokens = len(self._chat.tokenizer)
        self._allowed = np.setdiff1d(np.arange(self._num_tokens), self._chat.banned_ids)
        self._queue: dict[str, tuple[GenerationRequest, int]] = {}  # request id -> request, length of its prompt

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request; `expanded_length` raises for one that can never run."""
        if request.request_id in self._queue:
            raise ValueError(f"request {request.request_id} is already in flight")
        length = expanded_length(request, self._layout, self._chat.image_pad_id, self._max_context)
        self._queue[request.request_id] = (request, length)

    def step(self) -> list[Completion]:
        """Complete everything that is queued. An engine that takes longer returns what has finished."""
        done = [self._write(request, length) for request, length in self._queue.values()]
        self._queue.clear()
        return done

    def _write(self, request: GenerationRequest, length: int) -> Completion:
        limit = min(request.max_tokens, self._max_context - length)
        ids = np.random.default_rng(request.seed).choice(self._allowed, limit).tolist()
        ended = self._chat.end_id in ids
        ids = ids[: ids.index(self._chat.end_id) + 1] if ended else ids
        # Log-probs are those over the whole vocabulary, before tokens are banned.
        logprobs = (-math.log(self._num_tokens),) * len(ids)
        finish = "stop" if ended else "length"
        return Completion(request.request_id, tuple(ids), logprobs, finish, self.version, length)

    def has_work(self) -> bool:
        """Whether any request is queued."""
        return bool(self._queue)

    def abort(self, request_ids: Sequence[str]) -> None:
        """Forget these requests."""
        for request_id in request_ids:
            self._queue.pop(request_id, None)

    def load_weights(self, update: WeightUpdate, version: int) -> None:
        """Note the version, which every completion carries."""
        self.version = version

    def close(self) -> None:
        """Free nothing."""


def build_uniform(config: SamplerConfig, model_dir: Path, max_context: int, seed: int) -> Sampler:
    """Build the engine for a folder with a tokenizer."""
    return UniformSampler(model_dir, max_context)
