"""The model families: how each is loaded, saved and run. To add one, write its four functions and a line in `FAMILIES`.

Functions import torch and engines themselves, so that a wrong name is told before anything heavy is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from configs.load import ConfigError
from configs.names import unknown_name
from configs.prompt_file import prompt_problems
from configs.schema import PolicyConfig, RunConfig
from env.errors import CheckpointError
from env.frames import FrameCaches
from env.json_text import parse_json
from env.prompts import prompt_identity, prompt_of
from policy.segmenter import Segmenter
from rl.rollout.runner import OneByOneRunner, Runner

DEFAULT = "videoseg"  # of a `policy.json` that names no family: only this one existed when it was written


@dataclass(frozen=True)
class Family:
    """What the commands need of a model family. The functions must be importable, since Ray sends them to workers."""

    load: Callable[[Path, PolicyConfig | None], Any]
    """(checkpoint folder, config of the run or None) -> the policy. CheckpointError where the folder does not fit."""
    save: Callable[[Any, Path], None]
    """(policy, checkpoint folder) -> writes the folder, with a `policy.json` that names the family."""
    segmenter: Callable[[RunConfig, Path, FrameCaches], Segmenter]
    """(config, checkpoint folder, where pixels are read) -> the loaded model that evaluation and prediction ask."""
    identity: Callable[[RunConfig, Path], dict[str, Any]]
    """(config, checkpoint folder) -> what the masks depend on besides the folder's files, tasks, seed, temperature and
    frames, as JSON values. An evaluation goes on only where it is the same."""
    runner: Callable[[Any], Runner] = OneByOneRunner
    """Segmenter -> how a worker process runs it in short slices."""


def family_name(checkpoint: Path, kind: str = DEFAULT) -> str:
    """Return the family that the `policy.json` of `checkpoint` names, or `kind` where it has no such file.

    Raises:
        ConfigError: The family, or `kind` (`policy.kind` of the config), is not a key of `FAMILIES`.
        CheckpointError: `policy.json` cannot be read.
    """
    _check_name(kind, "policy.kind")
    path = checkpoint / "policy.json"
    if not path.is_file():
        return kind
    try:
        card = parse_json(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: no JSON, or cut off ({error}); copy it again") from error
    if not isinstance(card, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(card).__name__}; copy it again")
    name = card.get("family", DEFAULT)
    _check_name(name, f"{path}: family")
    return name


def require_checkpoint(checkpoint: str | Path, key: str) -> None:
    """Raise a CheckpointError if a policy's folder is not there; `key` is the setting or option that names it."""
    if str(checkpoint) and Path(checkpoint).is_dir():
        return
    raise CheckpointError(
        f"{key}: {checkpoint or 'nothing'}: expected the folder of a policy; policy/tiny is shipped, and "
        "`python -m rl.sft_coldstart --config tiny` trains another, runs/demo/policy"
    )


def family_of(checkpoint: Path, kind: str = DEFAULT) -> Family:
    """Return the entry of `FAMILIES` that `family_name` names."""
    return FAMILIES[family_name(checkpoint, kind)]


def as_trained(config: RunConfig, checkpoint: Path) -> RunConfig:
    """Return the config with the prompt of a checkpoint, which goes before `env.prompt`, in place of its own.

    Args:
        config: Of the run.
        checkpoint: Folder of the model; without a prompt in it the config stays as it is. Other words than the config's
            are told on the standard error.

    Raises:
        CheckpointError: The checkpoint's prompt does not go with the config's frames and tools.
    """
    env = replace(config.env, prompt=prompt_of(checkpoint, config.env.prompt))
    if env == config.env:
        return config
    if problems := prompt_problems(env):
        raise CheckpointError("; ".join(problems))
    if prompt_identity(env.prompt) != prompt_identity(config.env.prompt):
        message = (
            f"prompt: that of the checkpoint {checkpoint} ({env.prompt}) goes before env.prompt {config.env.prompt}"
        )
        print(message, file=sys.stderr)
    return replace(config, env=env)


def _check_name(name: object, where: str) -> None:
    if not isinstance(name, str) or name not in FAMILIES:
        raise ConfigError(unknown_name(where, name, FAMILIES))


def _load_videoseg(folder: Path, config: PolicyConfig | None = None) -> Any:
    from policy.videoseg.checkpoint import load_policy

    return load_policy(folder, config)


def _save_videoseg(policy: Any, folder: Path) -> None:
    from policy.videoseg.checkpoint import save_policy

    save_policy(policy, folder)


def _videoseg_segmenter(config: RunConfig, checkpoint: Path, frames: FrameCaches) -> Segmenter:
    from policy.engines import build_sampler
    from policy.engines.env import set_engine_env
    from policy.folder_kinds import require_trained
    from policy.videoseg.checkpoint import load_policy
    from rl.rollout.segmenter import MultiTurnSegmenter

    # After torch, which keeps all its threads in a process without other workers. Ray workers set it before.
    set_engine_env()
    require_trained(checkpoint)
    # The other keys of `policy` concern training.
    policy = load_policy(checkpoint, PolicyConfig(sam=config.policy.sam, compute_dtype=config.policy.compute_dtype))
    sampler = build_sampler(config.sampler, checkpoint / "vlm", config.env.max_context_tokens, config.seed)
    return MultiTurnSegmenter(policy, sampler, frames, config.env, config.eval.malformed)


def _videoseg_identity(config: RunConfig, checkpoint: Path) -> dict[str, Any]:
    return {
        "env": asdict(config.env) | {"prompt": prompt_identity(config.env.prompt)},
        "malformed": config.eval.malformed,
        "sampler": {"kind": config.sampler.kind, "dtype": config.sampler.dtype},
        "compute_dtype": config.policy.compute_dtype,
        "inject_every_frame": config.policy.sam.inject_every_frame,
    }


def _videoseg_runner(segmenter: Any) -> Runner:
    from rl.rollout.segmenter import RunThenTrack

    return RunThenTrack(segmenter)


FAMILIES: dict[str, Family] = {
    "videoseg": Family(_load_videoseg, _save_videoseg, _videoseg_segmenter, _videoseg_identity, _videoseg_runner),
}
