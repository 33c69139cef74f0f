"""The `Sampler` that uses Hugging Face `generate`: the baseline for tests, and the fallback without vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    Qwen3VLForConditionalGeneration,
    StoppingCriteria,
    StoppingCriteriaList,
)

from configs.schema import SamplerConfig
from policy.engines.base import Completion, GenerationRequest, expanded_length
from policy.engines.weight_sync import FolderWeights
from policy.engines.weight_update import WeightUpdate
from policy.vlm.chat_tokens import expand_image_pads
from policy.vlm.load import compute_device, load_chat


class HfSampler:
    """A sampler in lock-step: `step` samples a whole batch until its longest turn ends, and encodes all frames anew."""

    def __init__(self, config: SamplerConfig, model_dir: Path, max_context: int):
        self.version = -1
        self._max_sequences = config.max_sequences
        self._max_context = max_context
        self._chat, self._layout = load_chat(model_dir)
        self._folder = FolderWeights(model_dir)
        self._queue: dict[str, tuple[GenerationRequest, list[int]]] = {}  # request id -> request, expanded ids
        self._model = Qwen3VLForConditionalGeneration.from_pretrained(
            model_dir, dtype=config.dtype, device_map=compute_device(), use_safetensors=True
        )
        self._model.requires_grad_(False)

    def submit(self, request: GenerationRequest) -> None:
        if request.request_id in self._queue:
            raise ValueError(f"request {request.request_id} is already in flight")
        expanded_length(request, self._layout, self._chat.image_pad_id, self._max_context)
        counts = [self._layout.num_tokens(*image.shape[:2]) for image in request.images]
        ids = expand_image_pads(request.prompt_ids, counts, self._chat.image_pad_id)
        self._queue[request.request_id] = (request, ids)

    def abort(self, request_ids: Sequence[str]) -> None:
        for request_id in request_ids:
            self._queue.pop(request_id, None)

    def has_work(self) -> bool:
        return bool(self._queue)

    @torch.inference_mode()
    def step(self) -> list[Completion]:
        taken = list(self._queue)[: self._max_sequences]
        if not taken:
            return []
        requests, prompts = zip(*(self._queue.pop(request_id) for request_id in taken), strict=True)
        limits = [
            min(request.max_tokens, self._max_context - len(ids))
            for request, ids in zip(requests, prompts, strict=True)
        ]
        processor = _GumbelMax(requests, self._chat.banned_ids, self._model.device)
        inputs = self._inputs(prompts, [image for request in requests for image in request.images])
        out_BL = self._model.generate(  # pyright: ignore[reportAttributeAccessIssue]
            **inputs,
            do_sample=False,  # `_GumbelMax` makes the argmax a sample
            max_new_tokens=max(limits),
            eos_token_id=self._chat.end_id,
            pad_token_id=self._chat.pad_id,
            logits_processor=LogitsProcessorList([processor]),
            stopping_criteria=StoppingCriteriaList([_Limits(limits, inputs["input_ids"].shape[1])]),
        )
        written_BL = out_BL[:, inputs["input_ids"].shape[1] :].tolist()
        logprobs_BL = torch.stack(processor.logprobs, dim=1).tolist()
        rows = zip(requests, prompts, written_BL, logprobs_BL, limits, strict=True)
        return [self._completion(*row) for row in rows]

    def _completion(
        self, request: GenerationRequest, prompt: list[int], ids: list[int], logprobs: list[float], limit: int
    ) -> Completion:
        ids = ids[:limit]
        stopped = self._chat.end_id in ids
        length = ids.index(self._chat.end_id) + 1 if stopped else limit
        finish = "stop" if stopped else "length"
        ids, logprobs = ids[:length], logprobs[:length]
        return Completion(request.request_id, tuple(ids), tuple(logprobs), finish, self.version, len(prompt))

    def _inputs(self, prompts: Sequence[list[int]], images: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """Return a left-padded batch with the frames of all rows in order."""
        width = max(map(len, prompts))
        padded = [[self._chat.pad_id] * (width - len(ids)) + ids for ids in prompts]
        input_ids_BL = torch.tensor(padded)
        attention_mask_BL = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
        inputs = {"input_ids": input_ids_BL, "attention_mask": attention_mask_BL}
        if images:
            patches = np.concatenate([self._layout.patchify(image) for image in images])
            inputs["pixel_values"] = torch.from_numpy(patches)
            inputs["image_grid_thw"] = torch.tensor([self._layout.grid(*image.shape[:2]) for image in images])
            inputs["mm_token_type_ids"] = (input_ids_BL == self._chat.image_pad_id).int()
        return {name: tensor.to(self._model.device) for name, tensor in inputs.items()}

    @torch.inference_mode()
    def load_weights(self, update: WeightUpdate, version: int) -> None:
        if self._queue:
            raise RuntimeError(f"weight sync to version {version} while {len(self._queue)} requests are in flight")
        own = self._model.state_dict()
        for name, tensor in self._folder.merged(update).items():
            own[name].copy_(tensor)
        self.version = version

    def close(self) -> None:
        del self._model


class _GumbelMax(LogitsProcessor):
    """A processor that makes greedy decoding sample each row with a random generator of its own.

    The argmax of logits / temperature + Gumbel noise is a sample of the softmax (Gumbel-max trick), which `generate`
    then takes. Rows do not depend on each other. The log-prob of every sampled token, at temperature 1, is kept.
    """

    def __init__(self, requests: Sequence[GenerationRequest], banned_ids: Sequence[int], device: torch.device):
        self.logprobs: list[torch.Tensor] = []  # one [B] per token position
        self._banned_ids = list(banned_ids)
        self._temperatures = [request.temperature for request in requests]
        self._generators = [torch.Generator(device).manual_seed(request.seed) for request in requests]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        raw_BV = scores.float().log_softmax(dim=-1)
        noisy_BV = raw_BV.clone()
        noisy_BV[:, self._banned_ids] = -torch.inf
        for row, (temperature, generator) in enumerate(zip(self._temperatures, self._generators, strict=True)):
            if temperature > 0:
                noise_V = torch.empty_like(noisy_BV[row]).exponential_(generator=generator)
                noisy_BV[row] = noisy_BV[row] / temperature - noise_V.log()
        self.logprobs.append(raw_BV.gather(1, noisy_BV.argmax(dim=-1, keepdim=True))[:, 0])
        return noisy_BV


class _Limits(StoppingCriteria):
    """A criterion that ends each row at its own number of new tokens."""

    def __init__(self, limits: Sequence[int], prompt_width: int):
        self._limits = torch.tensor(limits)
        self._prompt_width = prompt_width

    def __call__(self, input_ids: torch.Tensor, scores: object) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return input_ids.shape[1] - self._prompt_width >= self._limits.to(input_ids.device)
