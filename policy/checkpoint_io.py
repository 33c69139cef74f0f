"""Files of a checkpoint: reads JSON and weights, and holds names and shapes against the module that is to take them.

Every fault is a CheckpointError that names the file, the first offending entries and what to do.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from env.errors import CheckpointError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_NAMED = 3  # names that a message spells out


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; CheckpointError where it is missing, cut off or anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: not found; the checkpoint folder is incomplete, copy it again") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: no JSON, or cut off ({error}); copy it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(value).__name__}; copy it again")
    return value


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All weights of a Hugging Face folder, in one file or in shards; CheckpointError where one cannot be read."""
    if not (folder / INDEX).is_file():
        return read_safetensors(folder / SINGLE)
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{folder / INDEX}: expected 'weight_map', the shard of every weight; copy it again")
    weights: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        if Path(shard).name != shard:
            raise CheckpointError(f"{folder / INDEX}: the shard {shard!r} leads out of the folder")
        weights |= read_safetensors(folder / shard)
    lost = sorted(weight_map.keys() - weights.keys())
    if lost:
        raise CheckpointError(f"{folder}: {_several(lost, 'listed in the index but in no shard')}; download it again")
    return weights


def read_safetensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: not found; the checkpoint folder is incomplete, copy it again")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: no safetensors file, or cut off ({error}); copy it again") from error


def write_safetensors(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write weights from any device; the metadata is what Hugging Face asks for."""
    save_file({name: tensor.cpu().contiguous() for name, tensor in weights.items()}, path, metadata={"format": "pt"})


def read_sam_checkpoint(path: Path) -> dict[str, Tensor]:
    """The weights of a published SAM 2 `.pt` file: a dictionary with one entry, `model`."""
    if not path.is_file():
        raise CheckpointError(f"{path}: not found; policy.sam.checkpoint names a published SAM 2 file (.pt)")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: no PyTorch checkpoint, or cut off; download it again ({error})") from error
    if not isinstance(loaded, dict) or not isinstance(loaded.get("model"), dict):
        raise CheckpointError(f"{path}: expected a dictionary with the weights under 'model', as SAM 2 is published")
    return loaded["model"]


def require_fit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], where: object, advice: str = "") -> None:
    """CheckpointError, naming the first weights of each kind, unless names and shapes are the same."""
    misshapen = [
        f"weight {name} has shape {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & found.keys())
        if found[name].shape != expected[name].shape
    ]
    require_names(expected.keys() - found.keys(), found.keys() - expected.keys(), where, advice, misshapen)


def require_names(
    missing: Iterable[str], unexpected: Iterable[str], where: object, advice: str = "", misshapen: Iterable[str] = ()
) -> None:
    """CheckpointError, naming the first of each kind, unless no weight is missing, unexpected or misshapen."""
    kinds = ((sorted(missing), "missing"), (sorted(unexpected), "not expected"))
    faults = [_several(names, what) for names, what in kinds if names] + list(misshapen)[:_NAMED]
    if faults:
        raise CheckpointError(f"{where}: " + "; ".join(faults) + (f". {advice}" if advice else ""))


def _several(names: list[str], what: str) -> str:
    if len(names) == 1:
        return f"weight {names[0]} is {what}"
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} weights are {what}: {', '.join(names[:_NAMED])}{more}"
