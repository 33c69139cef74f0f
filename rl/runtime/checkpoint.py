"""Training state on disk: `<run>/checkpoints/step-000010/{policy/, state.pt}`, complete or absent.

`policy/` is an ordinary checkpoint folder for evaluation and prediction; `state.pt` resumes the run exactly.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from env.errors import CheckpointError
from env.files import PARTIAL, remove_folder, replace_folder
from policy.checkpoint_io import read_pickle, require_finite, require_fit

KEEP = 2
# What a saved state must hold, and of which type.
STATE = {"step": int, "policy": dict, "optimizer": dict, "schedule": dict, "rng": torch.Tensor}


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
    """Return the saved training state.

    Raises CheckpointError where it is damaged, another file, or has numbers that are not finite.
    """
    path = folder / "state.pt"
    advice = f"remove {folder} to resume from the checkpoint before it"
    state = read_pickle(path, advice)
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: expected the state of a run, found a {type(state).__name__}; {advice}")
    for name, kind in STATE.items():
        if not isinstance(state.get(name), kind):
            found = type(state[name]).__name__ if name in state else "nothing"
            raise CheckpointError(f"{path}: expected {name!r} to be a {kind.__name__}, found {found}; {advice}")
    if other := [name for name, weight in state["policy"].items() if not isinstance(weight, torch.Tensor)]:
        raise CheckpointError(f"{path}: expected weights in 'policy', found {other[0]!r}, which is none; {advice}")
    require_finite(dict(_tensors(state, "")), path)
    return state


def _tensors(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (dotted name, tensor) of all tensors in nested dictionaries and lists."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _tensors(part, f"{name}.{key}".lstrip("."))


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
