"""The `Sampler` that uses vLLM, in this process, with continuous batching and one request per turn, on CPU or GPU."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np
from PIL import Image
from vllm import EngineArgs, LLMEngine, RequestOutput, SamplingParams, TokensPrompt
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.logprobs import Logprob
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind

from configs.schema import SamplerConfig
from policy.engines.base import Completion, GenerationRequest, expanded_length
from policy.engines.weight_sync import FolderWeights, changes_vision
from policy.engines.weight_update import WeightUpdate
from policy.vlm.load import load_chat

MAX_IMAGES = 256  # per dialogue; far more than an episode shows
CPU_BLOCK = 32  # tokens; the smallest key-value block of the CPU backend, so that most of a prefix is shared
BAN = -100.0  # vLLM clamps logit biases to [-100, 100]


class VllmSampler:
    """A sampler of many dialogues at once; the next turn of a dialogue may be submitted at any time.

    Siblings and later turns reuse key-value blocks (prefix cache) and encoded frames (encoder cache).
    """

    def __init__(self, config: SamplerConfig, model_dir: Path, max_context: int, seed: int):
        self.version = -1
        self._chat, self._layout = load_chat(model_dir)
        self._max_context = max_context
        self._folder = FolderWeights(model_dir)
        self._expanded: dict[str, int] = {}  # request id -> prompt tokens that the engine must count
        unit = (self._layout.patch * self._layout.merge) ** 2
        args = EngineArgs(
            model=str(model_dir),
            dtype=cast(Literal["float32", "bfloat16", "float16"], config.dtype),
            seed=seed,
            max_model_len=max_context,
            max_num_seqs=config.max_sequences,
            limit_mm_per_prompt={"image": MAX_IMAGES, "video": 0},
            # Areas in pixels. Frames already have their final size; inside these bounds nothing is resized.
            mm_processor_kwargs={"size": {"shortest_edge": unit, "longest_edge": max_context * unit}},
            mm_processor_cache_gb=0.5,
            enable_prefix_caching=True,
            disable_log_stats=True,
            worker_extension_cls="policy.engines.weight_sync.SyncExtension",
            **_device_args(config, max_context),
        )
        self._engine = LLMEngine.from_engine_args(args)

    def submit(self, request: GenerationRequest) -> None:
        if request.request_id in self._expanded:
            raise ValueError(f"request {request.request_id} is already in flight")
        length = expanded_length(request, self._layout, self._chat.image_pad_id, self._max_context)
        prompt = TokensPrompt(
            prompt_token_ids=list(request.prompt_ids),
            multi_modal_data={"image": [Image.fromarray(image) for image in request.images]},
            multi_modal_uuids={"image": [_cache_key(image) for image in request.images]},
        )
        params = SamplingParams(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            seed=request.seed,
            stop_token_ids=[self._chat.end_id],
            logit_bias=dict.fromkeys(self._chat.banned_ids, BAN),
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self._engine.add_request(request.request_id, prompt, params)
        self._expanded[request.request_id] = length

    def step(self) -> list[Completion]:
        if not self._expanded:
            return []
        outputs = self._engine.step()
        return [self._completion(output) for output in outputs if isinstance(output, RequestOutput) and output.finished]

    def _completion(self, output: RequestOutput) -> Completion:
        expected = self._expanded.pop(output.request_id)
        got = len(output.prompt_token_ids or ())
        if got != expected:
            raise RuntimeError(
                f"request {output.request_id}: expected {expected} prompt tokens, the engine counted {got}"
            )
        written = output.outputs[0]
        if written.finish_reason not in ("stop", "length") or written.logprobs is None:
            raise RuntimeError(f"request {output.request_id}: the engine ended it ({written.finish_reason})")
        token_ids = tuple(written.token_ids)
        entries = cast(list[dict[int, Logprob]], written.logprobs)
        logprobs = tuple(entry[token].logprob for entry, token in zip(entries, token_ids, strict=True))
        # With weights that are not finite every token is 0, banned or not; the episode then fails for its log-probs.
        if all(map(math.isfinite, logprobs)) and not set(token_ids).isdisjoint(self._chat.banned_ids):
            raise RuntimeError(f"request {output.request_id}: the engine sampled a banned token: {token_ids}")
        cached = output.num_cached_tokens or 0
        return Completion(output.request_id, token_ids, logprobs, written.finish_reason, self.version, got, cached)

    def abort(self, request_ids: Sequence[str]) -> None:
        known = [request_id for request_id in request_ids if self._expanded.pop(request_id, None) is not None]
        self._engine.abort_request(known)

    def has_work(self) -> bool:
        return bool(self._expanded)

    def load_weights(self, update: WeightUpdate, version: int) -> None:
        if self._expanded:
            raise RuntimeError(f"weight sync to version {version} while {len(self._expanded)} requests are in flight")
        self._engine.collective_rpc("sync_weights", args=(self._folder.merged(update),))
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("weight sync: the engine refused to drop its prefix cache")
        if changes_vision(update):
            self._engine.reset_encoder_cache()  # of scheduler and worker; loading weights clears neither
        self._engine.reset_mm_cache()
        self.version = version

    def close(self) -> None:
        self._engine.engine_core.shutdown()
        cleanup_dist_env_and_memory()


def _cache_key(image: np.ndarray) -> str:
    """Return the key of a frame in vLLM's caches; without one vLLM computes its own (the saving is not measured)."""
    return hashlib.blake2b(image.tobytes(), digest_size=16, key=repr(image.shape).encode()).hexdigest()


def _device_args(config: SamplerConfig, max_context: int) -> dict:
    if current_platform.is_cpu():
        return {
            "block_size": CPU_BLOCK,
            "enforce_eager": True,
            "kv_cache_memory_bytes": int(config.memory_gb * 2**30),
            # All prompts fit at once. For a prompt that is processed in two pieces vLLM rewinds the request's seeded
            # generator, which CPU generators do not support: the engine stops, "CPU Generator does not use offset".
            "max_num_batched_tokens": config.max_sequences * max_context,
        }
    return {
        "gpu_memory_utilization": config.gpu_memory_fraction,
        "max_num_batched_tokens": max(max_context, 8192),
    }
