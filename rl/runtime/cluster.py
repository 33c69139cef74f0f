"""Join or start Ray, and check the paths of a job that runs on it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import ray

from configs.load import ConfigError
from configs.schema import PolicyConfig, RunConfig
from env.errors import MachineError
from env.files import machine_errors
from rl.runtime.preflight import check_ray

VISIBLE = "CUDA_VISIBLE_DEVICES"
STARTS = 3  # attempts to start a local Ray
TOKEN_SETTINGS = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}  # with one of these Ray is left to decide
LEAST_STORE = 512 << 20  # bytes, for trajectories and other small objects
VERSIONS = 3  # of the weights in the store at a time: in use, in transit, being written


def check_job_paths(config: RunConfig) -> None:
    """Check that the paths of a GRPO run are absolute, if it is a job in Ray's copy of the working folder.

    The copy has no data in it, and Ray deletes it after the job. ConfigError names the key of the first relative path.
    """
    if "working_dir_files" not in Path.cwd().parts:
        return
    for key, path in _paths(config).items():
        if path and not Path(path).is_absolute():
            raise ConfigError(
                f"{key}: expected an absolute path that all nodes can reach, got {path!r}; "
                "a Ray job runs in a copy of the folder, which has no data in it and is deleted afterwards"
            )


def _paths(config: RunConfig) -> dict[str, str]:
    """Return the paths that GRPO reads or writes, by their keys in the config."""
    data, policy = config.data, config.policy
    paths = {"run_dir": config.run_dir, "policy.path": policy.path, "policy.sam.checkpoint": policy.sam.checkpoint}
    for i, source in enumerate(data.train):
        key = f"data.train.{i}"
        paths |= {f"{key}.root": source.root, f"{key}.traces": source.traces, f"{key}.only": source.only}
    if not data.train:
        paths |= {"data.train_root": data.train_root, "data.traces": data.traces}
    if config.grpo.eval_every:
        paths["data.eval_root"] = data.eval_root
    return paths


def connect_ray(config: RunConfig, has_gpu: bool = False) -> None:
    """Join the cluster of `ray job submit` (or RAY_ADDRESS), else start a local Ray sized for this run.

    `has_gpu`: this process uses the first GPU that it sees. A local Ray then manages the others only, unless workers
    share that one (`sampler.gpus_per_worker` below 1, one learner). MachineError where Ray cannot start.
    """
    if ray.is_initialized():
        return
    check_ray()
    make_token_private(may_create=not os.environ.get("RAY_ADDRESS"))
    quiet = {"logging_level": "warning", "log_to_driver": False}
    if os.environ.get("RAY_ADDRESS", "local") not in ("", "local"):
        with _ray_errors(f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}: the cluster cannot be joined"):
            ray.init(address="auto", **quiet)
    else:
        shares_gpu = config.sampler.gpus_per_worker < 1 and config.grpo.learner_ranks == 1
        gpus = _other_gpus() if has_gpu and not shares_gpu else None
        with _only_visible(gpus), _ray_errors("Ray cannot be started on this machine"):
            _start_local(
                address="local",  # otherwise Ray joins any cluster on this machine, and then rejects the settings below
                num_cpus=max(os.cpu_count() or 1, config.grpo.workers + config.grpo.learner_ranks, config.eval.workers),
                num_gpus=None if gpus is None else len(gpus),
                include_dashboard=False,
                object_store_memory=_store_bytes(config.policy),
                **quiet,
            )


def make_token_private(may_create: bool) -> None:
    """Make Ray's token, with which anyone can run code in the cluster, a file that only its owner can read.

    Ray writes the file with the usual permissions. `may_create`: write the token that a new local Ray would write.
    """
    path = Path.home() / ".ray" / "auth_token"
    with machine_errors(path):
        if path.is_file() and path.stat().st_uid == os.getuid():
            path.chmod(0o600)
        elif may_create and not path.exists() and not TOKEN_SETTINGS & os.environ.keys():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_hex(32))  # as Ray itself makes one


@contextmanager
def _ray_errors(what: str) -> Iterator[None]:
    """Raise what Ray raises at its start, which is of many classes, as a MachineError of one sentence."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise MachineError(f"{what} ({reason}); Ray's logs are in session_latest/logs of its folder") from error


def _other_gpus() -> list[str]:
    """Return the names of the GPUs that this process sees, without the first, on which torch puts a policy."""
    import torch  # here, because callers without a GPU do not need it

    named = os.environ.get(VISIBLE)
    return (named.split(",") if named else [str(gpu) for gpu in range(torch.cuda.device_count())])[1:]


@contextmanager
def _only_visible(gpus: Sequence[str] | None) -> Iterator[None]:
    """Let processes that are started inside the block see only these GPUs; None changes nothing."""
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
    """Return the object store's size in bytes, for weights and trajectories; Ray's default is 30 % of the memory."""
    files = Path(policy.path).glob("vlm/*.safetensors") if policy.path and not policy.lora_rank else ()
    return max(LEAST_STORE, VERSIONS * sum(file.stat().st_size for file in files))


def _start_local(**settings: Any) -> None:
    """Call `ray.init`, and again if the node of a busy machine is not up after the 30 seconds that Ray allows it."""
    this = psutil.Process()
    before = set(this.children())
    for attempt in range(STARTS):
        try:
            ray.init(**settings)
            return
        except Exception as error:  # Ray raises no more specific class here
            if "timed out during startup" not in str(error) or attempt + 1 == STARTS:
                raise
            ray.shutdown()
            for process in set(this.children()) - before:  # a half-started Ray, which nothing else ends
                process.kill()
