"""Pushing what the learner has changed into a running engine, and checking it before it goes.

An engine starts from a folder on disk; a sync carries what has moved since, low-rank changes as their two factors.

Reloading alone is silently wrong in three places (each shown by a test): on CPU the output head keeps a packed copy of
the old embedding when the two are tied, and the engine's prefix and encoder caches keep states of the old weights.
The head is mended here, inside the worker; the caches are dropped by the engine's owner (`policy.engines.vllm`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from env.errors import CheckpointError
from policy.engines.weight_update import LowRank, WeightUpdate

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

VISION_PREFIX = "model.visual."
HEAD = "lm_head.weight"


class FolderWeights:
    """What an engine loaded from a Hugging Face folder, and what each sync therefore has to bring."""

    def __init__(self, model_dir: Path):
        """CheckpointError when the folder holds no safetensors."""
        self._files: dict[str, Path] = {}  # weight -> file
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._moved: frozenset[str] = frozenset()  # by earlier syncs
        for file in sorted(model_dir.glob("*.safetensors")):
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118
                    self._files[name] = file
                    self._shapes[name] = tuple(weights.get_slice(name).get_shape())
        if not self._files:
            raise CheckpointError(f"{model_dir}: no *.safetensors file is here; expected a Hugging Face model folder")
        if json.loads((model_dir / "config.json").read_text()).get("tie_word_embeddings", False):
            self._shapes.pop(HEAD, None)

    def whole(self, moved: WeightUpdate) -> dict[str, torch.Tensor]:
        """What to copy into the engine, after raising CheckpointError for the first weight that is unknown, of another
        shape, or was part of an earlier sync and is not of this one: an engine would go on with the old values."""
        for name, value in moved.items():
            if name not in self._shapes:
                raise CheckpointError(f"weight sync: {name} is not a weight of the sampler's model")
            if tuple(value.shape) != self._shapes[name]:
                raise CheckpointError(
                    f"weight sync: {name} has shape {tuple(value.shape)}, expected {self._shapes[name]}"
                )
        if missing := sorted(self._moved - moved.keys()):
            raise CheckpointError(f"weight sync: {missing[0]} is missing; an earlier sync has changed it")
        self._moved |= moved.keys()
        return {name: self._merged(name, value) for name, value in moved.items()}

    def _merged(self, name: str, value: torch.Tensor | LowRank) -> torch.Tensor:
        if isinstance(value, torch.Tensor):
            return value
        with safe_open(self._files[name], framework="pt") as weights:
            return value.added_to(weights.get_tensor(name))


def moves_vision(moved: WeightUpdate) -> bool:
    """Whether frames that were encoded before a sync are worth nothing after it."""
    return any(name.startswith(VISION_PREFIX) for name in moved)


class SyncExtension:
    """Mixed into vLLM's worker by name (`worker_extension_cls`); called through `collective_rpc("sync_weights")`."""

    vllm_config: VllmConfig  # the worker's
    model_runner: GPUModelRunner  # the worker's

    # vLLM is imported inside: the Hugging Face sampler uses this module where vLLM is absent.
    def sync_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Copy checkpoint-format `weights` into the live model; the worker's caches are left to the caller."""
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
        from vllm.model_executor.model_loader.reload.inplace import reload_weights
        from vllm.platforms import current_platform

        model = self.model_runner.get_model()
        with set_current_vllm_config(self.vllm_config):
            # Not the runner's own reload: that also empties the worker's encoder cache behind the scheduler's back,
            # and the next request with a known frame then kills the engine ("Encoder cache miss").
            reload_weights(self.vllm_config, model, iter(weights.items()), weights_path=None, is_checkpoint_format=True)
            if current_platform.is_cpu():
                for module in model.modules():
                    if isinstance(module, ParallelLMHead):
                        dispatch_cpu_unquantized_gemm(module, remove_weight=False)
