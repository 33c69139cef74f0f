"""Joining or starting Ray, and what a job there has to be told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil
import ray

from configs.load import ConfigError
from configs.schema import PolicyConfig, RunConfig

STARTS = 3  # of a local Ray
LEAST_STORE = 512 << 20  # bytes: trajectories, and whatever else is small
VERSIONS = 3  # of the weights at a time: one in use, one on its way, one being written


def check_job_paths(config: RunConfig) -> None:
    """ConfigError for a relative path in a job that runs in Ray's copy of the working folder, which Ray deletes."""
    if "working_dir_files" not in Path.cwd().parts:
        return
    paths = {"run_dir": config.run_dir, "data.train_root": config.data.train_root, "policy.path": config.policy.path}
    paths |= {f"data.train.{i}.root": source.root for i, source in enumerate(config.data.train)}
    for key, path in paths.items():
        if path and not Path(path).is_absolute():
            raise ConfigError(
                f"{key}: {path!r} is relative, but this job runs in a copy of the folder that Ray deletes afterwards; "
                "give an absolute path that all nodes can reach"
            )


def connect_ray(config: RunConfig) -> None:
    """Join the cluster of `ray job submit` (or RAY_ADDRESS), else start a local Ray sized for this run."""
    if ray.is_initialized():
        return
    quiet = {"logging_level": "warning", "log_to_driver": False}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(address="auto", **quiet)
    else:
        _start_local(
            address="local",  # else Ray would join whatever it finds on this machine, and refuse the settings below
            num_cpus=max(os.cpu_count() or 1, config.grpo.workers + config.grpo.learner_ranks, config.eval.workers),
            include_dashboard=False,
            object_store_memory=_store_bytes(config.policy),
            **quiet,
        )


def _store_bytes(policy: PolicyConfig) -> int:
    """Room for the weights that travel and for trajectories; Ray by itself would take 30 % of the memory."""
    files = Path(policy.path).glob("vlm/*.safetensors") if policy.path and not policy.lora_rank else ()
    return max(LEAST_STORE, VERSIONS * sum(file.stat().st_size for file in files))


def _start_local(**settings: Any) -> None:
    """`ray.init`, tried again where the machine is too busy for the 30 seconds that Ray gives its node to come up."""
    this = psutil.Process()
    before = set(this.children())
    for attempt in range(STARTS):
        try:
            ray.init(**settings)
            return
        except Exception as error:  # Ray raises no class of its own here
            if "timed out during startup" not in str(error) or attempt + 1 == STARTS:
                raise
            ray.shutdown()
            for process in set(this.children()) - before:  # a half-started Ray, which nothing else would end
                process.kill()
