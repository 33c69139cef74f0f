"""Read and write the files of a checkpoint, and compare names and shapes with those of the module to load.

Every fault raises CheckpointError, which names the file, the first wrong entries and what to do.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from env.errors import CheckpointError
from env.files import replace_path
from env.json_text import parse_json

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_NAMED = 3  # most names in a message


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises CheckpointError where it is missing, cut off or not an object."""
    try:
        value = parse_json(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: not found; the checkpoint folder is incomplete, copy it again") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON, or cut off ({error}); copy it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(value).__name__}; copy it again")
    return value


def read_folder(folder: Path) -> dict[str, Tensor]:
    """Return all weights of a Hugging Face folder, in one file or in shards. Raises CheckpointError."""
    if not (folder / INDEX).is_file():
        return read_safetensors(folder / SINGLE)
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{folder / INDEX}: expected 'weight_map', the shard of every weight; copy it again")
    weights: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        if Path(shard).name != shard:
            raise CheckpointError(f"{folder / INDEX}: the shard {shard!r} is outside the folder; download it again")
        weights |= read_safetensors(folder / shard)
    lost = sorted(weight_map.keys() - weights.keys())
    if lost:
        raise CheckpointError(f"{folder}: {_several(lost, 'listed in the index but in no shard')}; download it again")
    return weights


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the weights in a safetensors file. Raises CheckpointError where it is missing or cannot be read."""
    if not path.is_file():
        raise CheckpointError(f"{path}: not found; the checkpoint folder is incomplete, copy it again")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file, or cut off ({error}); copy it again") from error


def write_safetensors(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write weights from any device, with the metadata that Hugging Face expects."""
    with replace_path(path) as draft:
        save_file({name: each.cpu().contiguous() for name, each in weights.items()}, draft, metadata={"format": "pt"})


def read_sam_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the weights in a published SAM 2 `.pt` file. Raises CheckpointError where it is not one."""
    if not path.is_file():
        raise CheckpointError(f"{path}: not found; policy.sam.checkpoint names a published SAM 2 file (.pt)")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: not a PyTorch checkpoint, or cut off; download it again ({error})") from error
    if not isinstance(loaded, dict) or not isinstance(loaded.get("model"), dict):
        raise CheckpointError(f"{path}: expected a dictionary with the weights under 'model', as SAM 2 is published")
    return loaded["model"]


def require_fit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], where: object, advice: str = "") -> None:
    """Raise CheckpointError unless two sets of weights have the same names and shapes.

    Args:
        expected: Weights of the module.
        found: Weights of the checkpoint.
        where: File or folder that the error names.
        advice: Last sentence of the error.
    """
    misshapen = [
        f"weight {name} has shape {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & found.keys())
        if found[name].shape != expected[name].shape
    ]
    require_names(expected.keys() - found.keys(), found.keys() - expected.keys(), where, advice, misshapen)


def require_names(
    missing: Iterable[str], unexpected: Iterable[str], where: object, advice: str = "", misshapen: Iterable[str] = ()
) -> None:
    """Raise CheckpointError, with the first names of each kind, if a weight is missing, unexpected or misshapen.

    Args:
        missing: Names that the module has and the checkpoint lacks.
        unexpected: Names that only the checkpoint has.
        where: File or folder that the error names.
        advice: Last sentence of the error.
        misshapen: A sentence for each weight of the wrong shape.
    """
    kinds = ((sorted(missing), "missing"), (sorted(unexpected), "not expected"))
    faults = [_several(names, what) for names, what in kinds if names] + list(misshapen)[:_NAMED]
    if faults:
        raise CheckpointError(f"{where}: " + "; ".join(faults) + (f". {advice}" if advice else ""))


def _several(names: list[str], what: str) -> str:
    if len(names) == 1:
        return f"weight {names[0]} is {what}"
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} weights are {what}: {', '.join(names[:_NAMED])}{more}"
