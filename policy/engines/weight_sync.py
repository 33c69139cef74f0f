"""Check the weights that the learner has changed, and copy them into a running engine.

An engine starts from a folder on disk; an update holds the weights that differ from it, those of adapters as two
factors.

Loading weights alone leaves three things stale, without an error (each shown by a test): on CPU a tied output head
keeps a packed copy of the old embedding, and the engine's prefix and encoder caches keep states of the old weights.
The head is repaired here, inside the worker; `policy.engines.vllm` drops the caches.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from env.errors import CheckpointError
from policy.checkpoint_io import read_json, require_finite
from policy.engines.weight_update import LowRank, WeightUpdate

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

VISION_PREFIX = "model.visual."
HEAD = "lm_head.weight"
EMBEDDING = "model.language_model.embed_tokens.weight"


class FolderWeights:
    """The weights in the Hugging Face folder of an engine, which every update refers to."""

    def __init__(self, model_dir: Path):
        """Read names and shapes. Raises CheckpointError when the folder holds no safetensors file."""
        self._files: dict[str, Path] = {}  # weight -> file
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._changed: frozenset[str] = frozenset()  # by earlier updates
        for file in sorted(model_dir.glob("*.safetensors")):
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118
                    self._files[name] = file
                    self._shapes[name] = tuple(weights.get_slice(name).get_shape())
        if not self._files:
            raise CheckpointError(f"{model_dir}: no *.safetensors file is here; expected a Hugging Face model folder")
        if read_json(model_dir / "config.json").get("tie_word_embeddings", False) and self._head_is_embedding():
            self._shapes.pop(HEAD, None)

    def _head_is_embedding(self) -> bool:
        """Return whether the folder has no head, or its head equals the embeddings: then the engines tie them."""
        return not {HEAD, EMBEDDING} <= self._files.keys() or torch.equal(self._tensor(HEAD), self._tensor(EMBEDDING))

    def merged(self, update: WeightUpdate) -> dict[str, torch.Tensor]:
        """Return the whole tensors to copy into the engine, adapters added to the weights of the folder.

        Raises CheckpointError for a weight that is unknown, has another shape or numbers that are not finite, and for
        one that an earlier update changed and this one lacks: the engine would go on with its old values.
        """
        for name, value in update.items():
            if name not in self._shapes:
                raise CheckpointError(f"weight sync: {name} is not a weight of the sampler's model")
            if tuple(value.shape) != self._shapes[name]:
                raise CheckpointError(
                    f"weight sync: {name} has shape {tuple(value.shape)}, expected {self._shapes[name]}"
                )
        if missing := sorted(self._changed - update.keys()):
            raise CheckpointError(f"weight sync: {missing[0]} is missing; an earlier sync has changed it")
        whole = {name: self._whole(name, value) for name, value in update.items()}
        require_finite(whole, "weight sync")
        self._changed |= update.keys()
        return whole

    def _whole(self, name: str, value: torch.Tensor | LowRank) -> torch.Tensor:
        if isinstance(value, torch.Tensor):
            return value
        return value.added_to(self._tensor(name))

    def _tensor(self, name: str) -> torch.Tensor:
        with safe_open(self._files[name], framework="pt") as weights:
            return weights.get_tensor(name)


def changes_vision(update: WeightUpdate) -> bool:
    """Return whether frames that were encoded before this update are stale after it."""
    return any(name.startswith(VISION_PREFIX) for name in update)


class SyncExtension:
    """A method added to vLLM's worker (`worker_extension_cls`), called through `collective_rpc("sync_weights")`."""

    vllm_config: VllmConfig  # the worker's
    model_runner: GPUModelRunner  # the worker's

    # vLLM is imported inside, because the Hugging Face sampler uses this module without vLLM.
    def sync_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Copy `weights`, named as in a checkpoint, into the running model; the caller drops the caches."""
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
        from vllm.model_executor.model_loader.reload.inplace import reload_weights
        from vllm.platforms import current_platform

        model = self.model_runner.get_model()
        with set_current_vllm_config(self.vllm_config):
            # Not the runner's own reload: it also empties the worker's encoder cache without telling the scheduler, and
            # the next request with a known frame stops the engine ("Encoder cache miss").
            reload_weights(self.vllm_config, model, iter(weights.items()), weights_path=None, is_checkpoint_format=True)
            if current_platform.is_cpu():
                for module in model.modules():
                    if isinstance(module, ParallelLMHead):
                        dispatch_cpu_unquantized_gemm(module, remove_weight=False)
