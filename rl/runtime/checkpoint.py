"""Training state on disk: `<run>/checkpoints/step-000010/{policy/, state.pt}`, complete or absent.

`policy/` is an ordinary checkpoint folder for evaluation and prediction; `state.pt` resumes the run exactly.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from env.errors import CheckpointError
from env.files import PARTIAL, remove_folder, replace_folder
from policy.checkpoint_io import require_fit

KEEP = 2


def save_checkpoint(run_dir: Path, step: int, write_policy: Callable[[Path], None], state: dict[str, Any]) -> Path:
    """Write a checkpoint and remove all but the newest `KEEP`.

    Args:
        run_dir: Folder of the run.
        step: Number of completed steps of the training loop.
        write_policy: Writes the policy's checkpoint folder to the path that it is given.
        state: Everything else that a resumed run needs; tensors, numbers and texts.

    Returns:
        The folder of the checkpoint.
    """
    folder = run_dir / "checkpoints" / f"step-{step:06d}"
    for left in folder.parent.glob(f".step-*{PARTIAL}"):  # of a killed save; one process writes to a run
        shutil.rmtree(left, ignore_errors=True)
    with replace_folder(folder) as draft:
        write_policy(draft / "policy")
        torch.save({"step": step, **state}, draft / "state.pt")
    for old in complete_checkpoints(run_dir)[:-KEEP]:
        remove_folder(old)
    return folder


def latest_checkpoint(run_dir: Path) -> Path:
    """Return the folder of the newest complete checkpoint. CheckpointError when there is none."""
    found = complete_checkpoints(run_dir)
    if not found:
        raise CheckpointError(f"{run_dir}: no checkpoints/step-*/state.pt to resume from; start without --resume")
    return found[-1]


def load_state(folder: Path) -> dict[str, Any]:
    """Return the saved training state. CheckpointError when it cannot be read."""
    try:
        return torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{folder / 'state.pt'}: cannot be read ({error})") from error


def restore(module: torch.nn.Module, weights: dict[str, torch.Tensor], where: str) -> None:
    """Load weights whose names and shapes are exactly those of the module.

    Args:
        module: Receives the weights.
        weights: Tensors by name.
        where: The file that they come from, for the error.

    Raises:
        CheckpointError: A weight is missing, unknown or of another shape; the message names it.
    """
    require_fit(module.state_dict(), weights, where, "Does the policy config differ?")
    module.load_state_dict(weights)


def complete_checkpoints(run_dir: Path) -> list[Path]:
    """Return the folders of all complete checkpoints, oldest first."""
    found = (run_dir / "checkpoints").glob("step-*/state.pt")
    return sorted(path.parent for path in found if path.parent.name.removeprefix("step-").isdecimal())
