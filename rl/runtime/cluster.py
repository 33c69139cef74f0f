"""Joining or starting Ray, and what a job there has to be told."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import ray

from configs.load import ConfigError
from configs.schema import PolicyConfig, RunConfig

VISIBLE = "CUDA_VISIBLE_DEVICES"
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


def connect_ray(config: RunConfig, has_gpu: bool = False) -> None:
    """Join the cluster of `ray job submit` (or RAY_ADDRESS), else start a local Ray sized for this run.

    `has_gpu` says that this process has taken the first GPU that it sees. A local Ray then has the others to give,
    unless workers are meant to share that one (`sampler.gpus_per_worker` below 1, one learner).
    """
    if ray.is_initialized():
        return
    quiet = {"logging_level": "warning", "log_to_driver": False}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(address="auto", **quiet)
    else:
        shares_gpu = config.sampler.gpus_per_worker < 1 and config.grpo.learner_ranks == 1
        gpus = _other_gpus() if has_gpu and not shares_gpu else None
        with _only_visible(gpus):
            _start_local(
                address="local",  # else Ray would join whatever it finds on this machine, and refuse the settings below
                num_cpus=max(os.cpu_count() or 1, config.grpo.workers + config.grpo.learner_ranks, config.eval.workers),
                num_gpus=None if gpus is None else len(gpus),
                include_dashboard=False,
                object_store_memory=_store_bytes(config.policy),
                **quiet,
            )


def _other_gpus() -> list[str]:
    """Names of the GPUs that this process sees, but the first, on which torch puts a policy."""
    import torch  # not above: what calls without a GPU need not load it

    named = os.environ.get(VISIBLE)
    return (named.split(",") if named else [str(gpu) for gpu in range(torch.cuda.device_count())])[1:]


@contextmanager
def _only_visible(gpus: Sequence[str] | None) -> Iterator[None]:
    """Show processes that are started meanwhile these GPUs alone; None changes nothing."""
    before = os.environ.get(VISIBLE)
    if gpus is not None:
        os.environ[VISIBLE] = ",".join(gpus)
    try:
        yield
    finally:
        if before is not None:
            os.environ[VISIBLE] = before
        elif gpus is not None:
            del os.environ[VISIBLE]


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
