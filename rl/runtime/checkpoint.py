"""Training state on disk: `<run>/checkpoints/step-000010/{policy/, state.pt}`. Written whole or not at all.

`policy/` is an ordinary checkpoint folder for evaluation and prediction; `state.pt` resumes the run exactly.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from env.errors import CheckpointError
from policy.checkpoint_io import require_fit

KEEP = 2


def save_checkpoint(run_dir: Path, step: int, save_policy: Callable[[Path], None], state: dict[str, Any]) -> Path:
    """Write the state after `step` steps, and remove all but the newest checkpoints.

    Args:
        run_dir: Folder of the run.
        step: Finished steps.
        save_policy: Writes the policy to the folder that it is given.
        state: Learner and data position: what `torch.load(weights_only=True)` can read.

    Returns:
        The checkpoint's folder.
    """
    folder = run_dir / "checkpoints" / f"step-{step:06d}"
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    save_policy(partial / "policy")
    torch.save({"step": step, **state}, partial / "state.pt")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    for old in _complete(run_dir)[:-KEEP]:
        shutil.rmtree(old)
    return folder


def latest_checkpoint(run_dir: Path) -> Path:
    """Folder of the newest complete checkpoint. CheckpointError when there is none."""
    found = _complete(run_dir)
    if not found:
        raise CheckpointError(f"{run_dir}: no checkpoints/step-*/state.pt to resume from; start without --resume")
    return found[-1]


def load_state(folder: Path) -> dict[str, Any]:
    """The saved training state. CheckpointError when it cannot be read."""
    try:
        return torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{folder / 'state.pt'}: cannot be read ({error})") from error


def restore(module: torch.nn.Module, weights: dict[str, torch.Tensor], where: str) -> None:
    """Load weights of exactly the same names and shapes. CheckpointError names those that differ."""
    require_fit(module.state_dict(), weights, where, "Does the policy config differ?")
    module.load_state_dict(weights)


def _complete(run_dir: Path) -> list[Path]:
    return sorted(
        path.parent for path in (run_dir / "checkpoints").glob("step-*/state.pt") if ".partial" not in str(path)
    )
