"""Pushing the learner's weights into a running vLLM engine, and checking them before they go.

Reloading alone is silently wrong in three places (each shown by a test): on CPU the output head keeps a packed copy of
the old embedding when the two are tied, and the engine's prefix and encoder caches keep states of the old weights.
The head is mended here, inside the worker; the caches are dropped by the engine's owner (`policy.vllm_sampler`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from env.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

VISION_PREFIX = "model.visual."
HEAD = "lm_head.weight"


def weight_shapes(model_dir: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight that a sync of this Hugging Face folder carries; a tied head is left out.

    Raises CheckpointError when the folder holds no safetensors.
    """
    files = sorted(model_dir.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{model_dir}: no *.safetensors file is here; expected a Hugging Face model folder")
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        with safe_open(file, framework="numpy") as weights:
            shapes |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    if json.loads((model_dir / "config.json").read_text()).get("tie_word_embeddings", False):
        shapes.pop(HEAD, None)
    return shapes


def check_weights(
    weights: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]], vision_optional: bool
) -> None:
    """Raise CheckpointError naming the first weight that is unknown, of another shape, or missing.

    An engine would warn at most, and go on with the old values.
    """
    for name, tensor in weights.items():
        if name not in shapes:
            raise CheckpointError(f"weight sync: {name} is not a weight of the sampler's model")
        if tuple(tensor.shape) != shapes[name]:
            raise CheckpointError(f"weight sync: {name} has shape {tuple(tensor.shape)}, expected {shapes[name]}")
    for name in shapes:
        if name not in weights and not (vision_optional and name.startswith(VISION_PREFIX)):
            raise CheckpointError(f"weight sync: {name} is missing")


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
