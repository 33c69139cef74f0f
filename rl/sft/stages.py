"""The stages that a cold start can consist of, by the name that `cold_start.stages` gives them.

To add one, write a function of a `StageContext` in a file of its own and name it in `STAGES`. It trains
`context.policy` in place. `rl.sft.loop.fit` is a plain training loop; `rl.sft.sequence_stages.train_sequences` runs
TRL's SFTTrainer on trajectories.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_file, save_model
from torch import nn

from configs.schema import RunConfig
from env.errors import CheckpointError
from env.files import replace_path
from policy.checkpoint_io import read_safetensors
from policy.videoseg.model import SegPolicy
from rl.sft.caption_prompts import CaptionPrompts
from rl.sft.context import StageContext
from rl.sft.mask_stage import train_masks
from rl.sft.sequence_stages import train_captions, train_dialogue
from rl.sft.vision_stage import train_vision

STAGES: dict[str, Callable[[StageContext], None]] = {
    "masks": train_masks,
    "vision": train_vision,
    "captions": train_captions,
    "dialogue": train_dialogue,
}


def caption_prompts(config: RunConfig, policy: SegPolicy) -> CaptionPrompts | None:
    """Build the caption prompts that a stage `masks` trains and later ones align to; None without such a stage."""
    if not any(stage.kind == "masks" for stage in config.cold_start.stages):
        return None
    return CaptionPrompts(policy.chat, policy.sam.hidden_dim).to(policy.device)


def save_stage(folder: Path, policy: SegPolicy, prompts: CaptionPrompts | None) -> None:
    """Write the weights after a stage, `policy.safetensors` last: with it the stage counts as done.

    Args:
        folder: The stage's folder.
        policy: The policy after the stage.
        prompts: The caption prompts after the stage, if the cold start has them.
    """
    with replace_path(folder / "rng.safetensors") as draft:  # the next stage goes on with these random numbers
        save_file({"torch": torch.get_rng_state()}, draft)
    if prompts is not None:
        with replace_path(folder / "prompts.safetensors") as draft:
            save_model(prompts, str(draft))
    with replace_path(folder / "policy.safetensors") as draft:
        save_model(policy, str(draft))


def is_done(folder: Path) -> bool:
    """Return whether the stage that writes to this folder was completed."""
    return (folder / "policy.safetensors").is_file()


def load_stage(folder: Path, policy: SegPolicy, prompts: CaptionPrompts | None) -> None:
    """Load the weights after a completed stage, and the state of torch's random numbers.

    Args:
        folder: The stage's folder.
        policy: Receives the policy's weights.
        prompts: Receives those of the caption prompts, if the cold start has them.
    """
    if (folder / "rng.safetensors").is_file():  # older runs have none
        torch.set_rng_state(read_safetensors(folder / "rng.safetensors")["torch"])
    _load(policy, folder / "policy.safetensors")
    if prompts is not None:
        _load(prompts, folder / "prompts.safetensors")


def _load(module: nn.Module, path: Path) -> None:
    """Load the weights of a finished stage. CheckpointError where the file is damaged or of another model."""
    try:
        load_model(module, str(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path}: cannot be loaded ({reason}); remove {path.parent} to train it again") from error
