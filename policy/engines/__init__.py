"""The engines that a config can name, and how one is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from configs.load import ConfigError
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
    """Load the engine that `config.kind` names on a plain Hugging Face folder.

    `max_context` counts expanded tokens (prompt, frames and what is written). Raises ConfigError for an unknown kind.
    `policy.engines.env.set_engine_env` must have run before.
    """
    if config.kind not in SAMPLERS:
        raise ConfigError(f"sampler.kind: unknown {config.kind!r}; known are {', '.join(SAMPLERS)}")
    return SAMPLERS[config.kind](config, model_dir, max_context, seed)
