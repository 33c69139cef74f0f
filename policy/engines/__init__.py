"""The engines that a config can name, and the function that loads one. Importing this module loads no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from configs.load import ConfigError
from configs.names import unknown_name
from configs.schema import SamplerConfig
from policy.engines.base import Sampler


def _vllm(config: SamplerConfig, model_dir: Path, max_context: int, seed: int) -> Sampler:
    from policy.engines.vllm import VllmSampler  # an engine takes seconds to import

    return VllmSampler(config, model_dir, max_context, seed)


def _hf(config: SamplerConfig, model_dir: Path, max_context: int, seed: int) -> Sampler:
    from policy.engines.hf import HfSampler

    return HfSampler(config, model_dir, max_context)


SAMPLERS: dict[str, Callable[[SamplerConfig, Path, int, int], Sampler]] = {"vllm": _vllm, "hf": _hf}


def build_sampler(config: SamplerConfig, model_dir: Path, max_context: int, seed: int) -> Sampler:
    """Load the engine that `config.kind` names.

    `policy.engines.env.set_engine_env` must have been called before.

    Args:
        config: The engine and its limits.
        model_dir: A plain Hugging Face folder.
        max_context: Most expanded tokens of prompt, frames and completion together.
        seed: Of the engine; every request has a seed of its own.

    Raises:
        ConfigError: There is no engine of this name.
    """
    if config.kind not in SAMPLERS:
        raise ConfigError(unknown_name("sampler.kind", config.kind, SAMPLERS))
    return SAMPLERS[config.kind](config, model_dir, max_context, seed)
